//! Manifests name nothing that the programs do not have, give them the time that they need and no
//! right that they do not need.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use single_state_tests::cluster::{Cluster, Options};
use single_state_tests::process::program;

use single_state_tests::manifests::{
    OTHER, WHOLE, containers, list, of_kind, pods, render, the, title,
};

/// Containers of this project's programs, each with its pod and the title of what makes that.
fn ours(objects: &[Value]) -> Vec<(String, &Value, &Value)> {
    let all = pods(objects).flat_map(|(title, pod)| {
        containers(pod).map(move |container| (title.clone(), pod, container))
    });
    all.filter(|(_, _, container)| name(container) != "postgres").collect()
}

fn name(value: &Value) -> &str {
    value["name"].as_str().unwrap_or_default()
}

/// The value of a flag of a container, `--flag=value`.
fn flag<'a>(container: &'a Value, wanted: &str) -> Option<&'a str> {
    let args = list(&container["args"]).iter().filter_map(Value::as_str);
    args.filter_map(|arg| arg.split_once('=')).find(|(flag, _)| *flag == wanted).map(|(_, it)| it)
}

/// What a program tells about its flags; `args` may begin with the name of one of its commands.
fn help(command: &Value, args: &[Value]) -> Result<String> {
    let command = command.as_str().context("a container has no command")?;
    let program = program(command.trim_start_matches('/'));
    let words = args.iter().filter_map(Value::as_str).take_while(|word| !word.starts_with('-'));
    let output = Command::new(&program).args(words).arg("--help").output();
    let output = output.with_context(|| format!("run {}", program.display()))?;
    // The name of a variable may begin a line of its own.
    Ok(String::from_utf8(output.stdout)?.replace("[env:\n          ", "[env: "))
}

/// Fails unless the program has all these flags and variables.
pub(crate) fn must_be_known(
    who: &str,
    command: &Value,
    args: &[Value],
    variables: &[&str],
) -> Result<()> {
    let help = help(command, args)?;
    for arg in args.iter().filter_map(Value::as_str) {
        let flag = arg.split('=').next().unwrap_or_default();
        let known = !flag.starts_with('-')
            || help.lines().any(|line| line.split_whitespace().next() == Some(flag));
        ensure!(known, "{who}: there is no {flag}");
    }
    for variable in variables {
        let known = help.contains(&format!("[env: {variable}=]"))
            || help.contains(&format!("[env: {variable}]"));
        ensure!(known, "{who}: there is no {variable}");
    }
    Ok(())
}

#[test]
fn every_flag_and_variable_exists() -> Result<()> {
    for folder in WHOLE {
        let objects = render(folder)?;
        let ours = ours(&objects);
        ensure!(ours.len() == 2, "{folder} has a gateway and a worker");
        for (title, _, container) in ours {
            let variables: Vec<_> = list(&container["env"]).iter().map(name).collect();
            let args = list(&container["args"]);
            must_be_known(
                &format!("{folder}: {title}"),
                &container["command"][0],
                args,
                &variables,
            )?;
        }
    }
    Ok(())
}

#[test]
fn every_port_that_something_names_is_one_where_its_program_listens() -> Result<()> {
    for folder in WHOLE {
        let objects = render(folder)?;
        for (title, pod, container) in ours(&objects) {
            for address in ["--listen", "--admin-listen"] {
                let address = flag(container, address).context("it listens")?;
                let (host, port) = address.rsplit_once(':').context("HOST:PORT")?;
                let port: u16 = port.parse()?;
                let ports = list(&container["ports"]);
                let named = ports.iter().any(|named| named["containerPort"] == port);
                let open = host == "0.0.0.0";
                ensure!(named == open, "{folder}: {title}: {address} against its ports");
            }
            if let Some(port) = flag(container, "--worker-admin-port") {
                let workers =
                    ours(&objects).into_iter().filter(|(.., c)| c["command"][0] == "/worker");
                let listens = workers.filter_map(|(.., c)| flag(c, "--admin-listen"));
                let known = listens.filter_map(|at| at.rsplit_once(':')).all(|(_, at)| at == port);
                ensure!(known, "{folder}: {title}: workers are asked at {port}");
            }
            for probe in ["readinessProbe", "livenessProbe", "startupProbe"] {
                let port = container[probe]["httpGet"].get("port");
                let known = port.is_none_or(|port| !pod_ports(pod, port).is_empty());
                ensure!(known, "{folder}: {title}: {probe} asks {port:?}");
            }
        }
        for service in of_kind(&objects, "Service") {
            let pods = selected(&objects, &service["spec"]["selector"]);
            ensure!(!pods.is_empty(), "{folder}: {} has no pods", title(service));
            for port in list(&service["spec"]["ports"]) {
                let known = pods.iter().all(|pod| !pod_ports(pod, &port["targetPort"]).is_empty());
                ensure!(known, "{folder}: {}: {port} leads nowhere", title(service));
            }
        }
    }
    Ok(())
}

#[test]
fn what_leads_to_a_service_names_one_of_its_ports() -> Result<()> {
    let mut ways = 0;
    for folder in WHOLE {
        let mut objects = render(folder)?;
        if folder == "overlays/prod" {
            objects.extend(render(OTHER[0])?);
        }
        let port = |service: &Value, key: &str, wanted: &Value| {
            list(&service["spec"]["ports"]).iter().any(|port| port[key] == *wanted)
        };
        for monitor in of_kind(&objects, "ServiceMonitor") {
            let wanted = monitor["spec"]["selector"]["matchLabels"].as_object();
            let wanted = wanted.context("labels")?;
            let endpoint = &monitor["spec"]["endpoints"][0]["port"];
            let mut services = of_kind(&objects, "Service").filter(|service| {
                let has = &service["metadata"]["labels"];
                wanted.iter().all(|(key, value)| has.get(key) == Some(value))
            });
            let found = services.any(|service| port(service, "name", endpoint));
            ensure!(found, "{folder}: {} finds no {endpoint}", title(monitor));
            ways += 1;
        }
        for ingress in of_kind(&objects, "Ingress") {
            let service = &ingress["spec"]["rules"][0]["http"]["paths"][0]["backend"]["service"];
            let of = the(&objects, &format!("Service/{}", name(service)))?;
            ensure!(port(of, "name", &service["port"]["name"]), "{folder}: {service}");
            ways += 1;
        }
        for route in of_kind(&objects, "HTTPRoute") {
            let service = &route["spec"]["rules"][0]["backendRefs"][0];
            let of = the(&objects, &format!("Service/{}", name(service)))?;
            ensure!(port(of, "port", &service["port"]), "{folder}: {service}");
            ways += 1;
        }
    }
    ensure!(ways == 4, "{ways} are looked at");
    Ok(())
}

/// Pods that a selector's labels choose.
fn selected<'a>(objects: &'a [Value], labels: &Value) -> Vec<&'a Value> {
    let labels = labels.as_object().cloned().unwrap_or_default();
    let template = |object: &'a Value| object.pointer("/spec/template");
    let chosen = objects.iter().filter_map(template).filter(|template| {
        let has = &template["metadata"]["labels"];
        labels.iter().all(|(key, value)| has.get(key) == Some(value))
    });
    chosen.map(|template| &template["spec"]).collect()
}

/// The numbers of a pod's ports with this name or number.
fn pod_ports(pod: &Value, port: &Value) -> Vec<u64> {
    let ports = containers(pod).flat_map(|container| list(&container["ports"]));
    let ports = ports.filter(|has| has["name"] == *port || has["containerPort"] == *port);
    ports.filter_map(|has| has["containerPort"].as_u64()).collect()
}

#[test]
fn network_policies_let_in_what_the_parts_have_to_say_to_each_other() -> Result<()> {
    let objects = render("overlays/dev")?;
    let allowed = |policy: &str, way: &str, port: &str| -> Result<bool> {
        let rules = list(&the(&objects, &format!("NetworkPolicy/{policy}"))?["spec"][way]);
        Ok(rules.iter().flat_map(|rule| list(&rule["ports"])).any(|has| has["port"] == port))
    };
    for (policy, way, port) in [
        ("gateway", "ingress", "http"),
        ("gateway", "ingress", "admin"),
        ("gateway", "egress", "link"),
        ("gateway", "egress", "admin"),
        ("worker", "ingress", "link"),
        ("worker", "ingress", "admin"),
        ("worker-to-database", "egress", "postgres"),
        ("postgres", "ingress", "postgres"),
    ] {
        ensure!(allowed(policy, way, port)?, "{policy} has no {way} for {port}");
    }
    for policy in of_kind(&objects, "NetworkPolicy") {
        for way in ["ingress", "egress"] {
            let rules = list(&policy["spec"][way]).iter();
            for peer in rules.flat_map(|rule| list(&rule["from"]).iter().chain(list(&rule["to"]))) {
                let ours = peer["podSelector"].get("matchLabels");
                let known = ours.is_none_or(|labels| !selected(&objects, labels).is_empty());
                ensure!(known, "{}: nobody is {peer}", title(policy));
            }
        }
    }
    Ok(())
}

#[tokio::test]
async fn every_path_that_something_asks_is_answered() -> Result<()> {
    let cluster = Cluster::start(Options::default()).await?;
    let mut asked = 0;
    for folder in WHOLE {
        let objects = render(folder)?;
        for (_, _, container) in ours(&objects) {
            let is_gateway = container["command"][0] == "/gateway";
            let node = if is_gateway { &cluster.gateway } else { &cluster.workers[0] };
            for probe in ["readinessProbe", "livenessProbe", "startupProbe"] {
                let Some(path) = container[probe]["httpGet"]["path"].as_str() else { continue };
                let (status, body) = node.admin_get(path).await?;
                ensure!(status == 200, "{folder}: {probe} {path}: {status} {body}");
                asked += 1;
            }
        }
        for endpoint in
            of_kind(&objects, "ServiceMonitor").flat_map(|m| list(&m["spec"]["endpoints"]))
        {
            let path = endpoint["path"].as_str().context("a path")?;
            let (status, _) = cluster.workers[0].admin_get(path).await?;
            ensure!(status == 200, "{path}: {status}");
            asked += 1;
        }
    }
    ensure!(asked >= 14, "only {asked} paths are asked");
    Ok(())
}

#[test]
fn pods_have_the_time_that_their_programs_take_to_end() -> Result<()> {
    for folder in WHOLE {
        let objects = render(folder)?;
        for (title, pod) in pods(&objects).filter(|(title, _)| !title.ends_with("/postgres")) {
            let mut needed = Duration::ZERO;
            for container in containers(pod) {
                let sleep = &container["lifecycle"]["preStop"]["sleep"]["seconds"];
                let drain = flag(container, "--drain-timeout").context("it drains")?;
                let drain: u64 = drain.trim_end_matches('s').parse()?;
                // Those beside the main one end after it.
                needed += Duration::from_secs(sleep.as_u64().unwrap_or(0) + drain);
            }
            let grace = pod["terminationGracePeriodSeconds"].as_u64().context("a grace period")?;
            let grace = Duration::from_secs(grace);
            let rest = Duration::from_secs(10);
            ensure!(grace >= needed + rest, "{folder}: {title}: {grace:?} for {needed:?}");
        }
    }
    Ok(())
}

#[test]
fn gateways_may_watch_the_workers_and_nobody_may_do_anything_else() -> Result<()> {
    for folder in WHOLE {
        let objects = render(folder)?;
        for (title, pod) in pods(&objects) {
            let follows = containers(pod).find_map(|container| flag(container, "--topology"));
            let token = pod["automountServiceAccountToken"].as_bool();
            ensure!(token == Some(follows.is_some()), "{folder}: {title}: its token is {token:?}");
            let Some(follows) = follows else { continue };
            let set = follows.strip_prefix("kubernetes:statefulset/").context("a StatefulSet")?;
            the(&objects, &format!("StatefulSet/{set}"))?;
            let account = pod["serviceAccountName"].as_str().context("an account")?;
            let binding = the(&objects, &format!("RoleBinding/{account}"))?;
            ensure!(binding["subjects"][0]["name"] == account, "{folder}: whose is {binding}");
            let role = binding["roleRef"]["name"].as_str().context("a role")?;
            let rules = &the(&objects, &format!("Role/{role}"))?["rules"];
            let wanted = json!([{"apiGroups": ["apps"], "resources": ["statefulsets"],
                                 "resourceNames": [set], "verbs": ["list", "watch"]}]);
            ensure!(*rules == wanted, "{folder}: {title} may {rules}");
        }
        let roles = objects
            .iter()
            .filter(|object| object["kind"].as_str().is_some_and(|kind| kind.contains("Role")));
        ensure!(roles.count() <= 2, "{folder} has another role");
    }
    Ok(())
}

/// What the pod security standard `restricted` asks of a container, and a read-only root beside it.
#[test]
fn every_container_is_restricted_and_its_root_is_read_only() -> Result<()> {
    for folder in WHOLE {
        let objects = render(folder)?;
        for (title, pod) in pods(&objects) {
            let whole = &pod["securityContext"];
            ensure!(whole["runAsNonRoot"] == true, "{folder}: {title} may be root");
            ensure!(whole["runAsUser"].as_u64() > Some(0), "{folder}: {title}: its user");
            let seccomp = &whole["seccompProfile"]["type"];
            ensure!(seccomp == "RuntimeDefault", "{folder}: {title}: seccomp {seccomp}");
            for forbidden in ["hostNetwork", "hostPID", "hostIPC", "hostUsers"] {
                ensure!(pod.get(forbidden).is_none(), "{folder}: {title}: {forbidden}");
            }
            for volume in list(&pod["volumes"]) {
                let kinds = ["secret", "emptyDir", "persistentVolumeClaim"];
                let known = kinds.iter().any(|kind| volume.get(kind).is_some());
                ensure!(known, "{folder}: {title}: volume {volume}");
            }
            for container in containers(pod) {
                let context = &container["securityContext"];
                let wanted = json!({"allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
                                    "capabilities": {"drop": ["ALL"]}});
                ensure!(*context == wanted, "{folder}: {title}: {context}");
                ensure!(
                    container["resources"]["limits"].get("memory").is_some(),
                    "{title}: memory"
                );
            }
        }
    }
    Ok(())
}

#[test]
fn every_key_file_lies_in_a_mounted_secret_and_the_secrets_are_known() -> Result<()> {
    for folder in WHOLE {
        let objects = render(folder)?;
        for (title, pod, container) in ours(&objects) {
            for wanted in ["--session-keys-file", "--link-key-file"] {
                let Some(file) = flag(container, wanted) else { continue };
                let (at, _) = file.rsplit_once('/').context("a folder")?;
                let mounts = list(&container["volumeMounts"]).iter();
                let volume = mounts.clone().find(|mount| mount["mountPath"] == at).map(name);
                let volume = volume.with_context(|| format!("{title}: nothing at {at}"))?;
                let volumes = list(&pod["volumes"]).iter();
                let secret = volumes.clone().find(|has| name(has) == volume);
                let secret = secret.and_then(|volume| volume["secret"]["secretName"].as_str());
                secret_has(folder, &objects, secret.context("a secret")?, "keys")?;
            }
            for variable in list(&container["env"]) {
                let Some(from) = variable["valueFrom"].get("secretKeyRef") else { continue };
                let key = from["key"].as_str().context("a key")?;
                secret_has(folder, &objects, name(from), key)?;
            }
        }
    }
    Ok(())
}

/// Where nothing makes the Secret, `deploy/README.md` has to say how.
fn secret_has(folder: &str, objects: &[Value], wanted: &str, key: &str) -> Result<()> {
    let made = of_kind(objects, "Secret").find(|secret| name(&secret["metadata"]) == wanted);
    let cluster = of_kind(objects, "Cluster").next();
    if let Some(secret) = made {
        ensure!(secret["data"].get(key).is_some(), "{folder}: {wanted} has no {key}");
    } else if cluster.is_none_or(|cluster| {
        let cluster = name(&cluster["metadata"]);
        wanted != format!("{cluster}-app") && wanted != format!("{cluster}-ca")
    }) {
        let how = format!("create secret generic {wanted}");
        ensure!(
            single_state_tests::manifests::text("README.md")?.contains(&how),
            "{folder}: who makes {wanted}?"
        );
    }
    Ok(())
}

/// What no other test sees, since it is Kubernetes that does it.
#[test]
fn what_keeps_sockets_open_while_pods_come_and_go_is_asked_for() -> Result<()> {
    for folder in ["overlays/dev", "overlays/prod"] {
        let objects = render(folder)?;
        for (of, pointer, wanted) in [
            // One worker that cannot start must not keep the others from starting.
            ("StatefulSet/worker", "/spec/podManagementPolicy", json!("Parallel")),
            ("StatefulSet/worker", "/spec/minReadySeconds", json!(10)),
            // Draining workers hand their sessions over, and must be found for that.
            ("Service/workers", "/spec/publishNotReadyAddresses", json!(true)),
            ("Service/workers", "/spec/clusterIP", json!("None")),
            ("PodDisruptionBudget/worker", "/spec/maxUnavailable", json!(1)),
            ("PodDisruptionBudget/gateway", "/spec/maxUnavailable", json!(1)),
            ("Deployment/gateway", "/spec/strategy/rollingUpdate/maxUnavailable", json!(0)),
            ("Deployment/gateway", "/spec/minReadySeconds", json!(10)),
        ] {
            let is = the(&objects, of)?.pointer(pointer);
            ensure!(is == Some(&wanted), "{folder}: {of} {pointer} is {is:?}");
        }
        let replicas = the(&objects, "Deployment/gateway")?["spec"].get("replicas");
        ensure!(replicas.is_none(), "{folder}: the autoscaler's number is reset by each apply");
    }
    Ok(())
}
