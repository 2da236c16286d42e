//! Against an API of the test's own that answers over HTTP as a real one does.

use std::time::Duration;

use kube::Config;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::timeout;

use super::*;

const DEADLINE: Duration = Duration::from_secs(60);
/// 2023-11-14T22:13:20Z.
const MADE: u64 = 1_700_000_000;
const CREATED: &str = "2023-11-14T22:13:20Z";
const LATER: &str = "2023-11-14T22:13:21Z";

/// An API server, request by request.
struct Server(TcpListener);

/// A request that waits for its answer; dropped: the connection breaks.
struct Request {
    target: String,
    stream: TcpStream,
}

/// A watch whose events the test sends.
struct Watch(TcpStream);

impl Server {
    async fn request(&self) -> Request {
        let accepted = timeout(DEADLINE, self.0.accept()).await.unwrap();
        let (mut stream, _) = accepted.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        let head = String::from_utf8(head).unwrap();
        let target = head.split(' ').nth(1).unwrap().to_owned();
        // What a Role with `resourceNames` lets pass: this object alone, named in each request.
        let (path, query) = target.split_once('?').unwrap();
        assert!(head.starts_with("GET "), "{head}");
        assert_eq!(path, "/apis/apps/v1/namespaces/apps/statefulsets");
        let selects = query.split('&').any(|part| part == "fieldSelector=metadata.name%3Dworker");
        assert!(selects, "{target}");
        Request { target, stream }
    }

    /// Answers a request for the list.
    async fn list(&self, version: &str, items: &[Value]) {
        let request = self.request().await;
        assert!(!request.target.contains("watch"), "{}", request.target);
        let list = json!({"kind": "StatefulSetList", "apiVersion": "apps/v1",
                          "metadata": {"resourceVersion": version}, "items": items});
        request.answer(200, &list).await;
    }

    /// Begins a watch that is to go on from `version`.
    async fn watch(&self, version: &str) -> Watch {
        self.request().await.watch(version).await
    }
}

impl Request {
    async fn answer(mut self, code: u16, body: &Value) {
        let body = body.to_string();
        let head = format!(
            "HTTP/1.1 {code} x\r\ncontent-type: application/json\r\nconnection: close\r\n\
             content-length: {}\r\n\r\n",
            body.len()
        );
        self.stream.write_all((head + &body).as_bytes()).await.unwrap();
    }

    async fn refuse(self, code: u16, message: &str) {
        self.answer(code, &status(code, message)).await;
    }

    async fn watch(mut self, version: &str) -> Watch {
        for part in ["watch=true", "allowWatchBookmarks=true", "timeoutSeconds=60"] {
            assert!(self.target.contains(part), "{part} in {}", self.target);
        }
        let from = format!("resourceVersion={version}");
        assert!(self.target.split(['?', '&']).any(|part| part == from), "{}", self.target);
        let head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n\
                     transfer-encoding: chunked\r\n\r\n";
        self.stream.write_all(head).await.unwrap();
        Watch(self.stream)
    }
}

impl Watch {
    async fn event(&mut self, kind: &str, object: &Value) {
        self.chunk(&line(kind, object)).await;
    }

    async fn chunk(&mut self, text: &str) {
        let chunk = format!("{:x}\r\n{text}\r\n", text.len());
        self.0.write_all(chunk.as_bytes()).await.unwrap();
    }

    async fn bookmark(&mut self, version: &str) {
        let mark = json!({"kind": "StatefulSet", "apiVersion": "apps/v1",
                          "metadata": {"resourceVersion": version, "creationTimestamp": null}});
        self.event("BOOKMARK", &mark).await;
    }

    /// As servers end a watch whose time is over.
    async fn end(mut self) {
        self.0.write_all(b"0\r\n\r\n").await.unwrap();
    }
}

/// An event as it stands in a watch.
fn line(kind: &str, object: &Value) -> String {
    json!({"type": kind, "object": object}).to_string() + "\n"
}

fn status(code: u16, message: &str) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
           "message": message, "reason": "x", "code": code})
}

fn stateful_set(version: &str, created: &str, generation: u64, replicas: u32) -> Value {
    json!({
        "kind": "StatefulSet", "apiVersion": "apps/v1",
        "metadata": {"name": "worker", "namespace": "apps", "uid": created, "generation": generation,
                     "resourceVersion": version, "creationTimestamp": created},
        "spec": {
            "replicas": replicas, "serviceName": "workers",
            "selector": {"matchLabels": {"app": "worker"}},
            "template": {
                "metadata": {"labels": {"app": "worker"}},
                "spec": {"containers": [{"name": "worker", "image": "worker", "ports": [
                    {"name": "admin", "containerPort": 9001},
                    {"name": "link", "containerPort": 7777},
                ]}]},
            },
        },
        "status": {"replicas": 1},
    })
}

fn workers() -> Workers {
    Workers { name: "worker".to_owned(), port: 7000, placement: Placement::Jump }
}

/// What is offered while the server does its `steps`.
async fn watching(steps: impl AsyncFnOnce(&Server, &mut UnboundedReceiver<Offer>)) {
    let server = Server(TcpListener::bind("127.0.0.1:0").await.unwrap());
    let url = format!("http://{}", server.0.local_addr().unwrap());
    let client = Client::try_from(Config::new(url.parse().unwrap())).unwrap();
    let api = Api::namespaced(client, "apps");
    let (offer, mut offers) = unbounded_channel();
    let workers = workers();
    tokio::select! {
        () = workers.watch_with(&api, |seen| offer.send(seen).unwrap()) => {}
        () = steps(&server, &mut offers) => {}
    }
}

async fn until(offers: &mut UnboundedReceiver<Offer>, is: impl Fn(&Offer) -> bool) -> Offer {
    let search = async {
        loop {
            let offer = offers.recv().await.unwrap();
            if is(&offer) {
                return offer;
            }
        }
    };
    timeout(DEADLINE, search).await.unwrap()
}

/// Waits for so many workers; the generation.
async fn until_workers(offers: &mut UnboundedReceiver<Offer>, number: usize) -> u64 {
    let is = |offer: &Offer| offer.as_ref().is_ok_and(|t| t.workers().len() == number);
    until(offers, is).await.unwrap().generation().0
}

async fn until_told(offers: &mut UnboundedReceiver<Offer>, part: &str) {
    let is = |offer: &Offer| offer.as_ref().is_err_and(|sentence| sentence.contains(part));
    let told = until(offers, is).await.unwrap_err();
    assert!(told.starts_with("--topology kubernetes:statefulset/worker: "), "{told}");
}

#[tokio::test]
async fn there_are_as_many_workers_as_replicas_and_the_generation_rises_with_each_change() {
    watching(async |server, offers| {
        server.list("10", &[stateful_set("9", CREATED, 1, 2)]).await;
        let topology = until(offers, Result::is_ok).await.unwrap();
        let expected = ["worker-0.workers.apps.svc:7777", "worker-1.workers.apps.svc:7777"];
        assert_eq!(topology.workers(), expected);
        assert_eq!(topology.generation().0, (MADE << 20) + 1);
        assert_eq!(topology.placement(), Placement::Jump);
        let mut watch = server.watch("10").await;
        for (generation, replicas) in [(2, 5), (3, 0), (4, 1)] {
            watch.event("MODIFIED", &stateful_set("11", CREATED, generation, replicas)).await;
            let seen = until_workers(offers, replicas as usize).await;
            assert_eq!(seen, (MADE << 20) + generation);
        }
    })
    .await;
}

#[tokio::test]
async fn a_watch_that_ends_or_breaks_goes_on_from_the_last_bookmark() {
    watching(async |server, offers| {
        server.list("10", &[stateful_set("9", CREATED, 1, 1)]).await;
        let mut watch = server.watch("10").await;
        watch.bookmark("20").await;
        watch.end().await;
        let mut watch = server.watch("20").await;
        watch.bookmark("30").await;
        drop(watch);
        drop(server.request().await);
        let mut watch = server.watch("30").await;
        watch.event("MODIFIED", &stateful_set("31", CREATED, 2, 3)).await;
        until_workers(offers, 3).await;
        drop(watch);
        server.watch("31").await;
    })
    .await;
}

#[tokio::test]
async fn what_is_expired_is_listed_anew_whether_an_event_or_the_answer_says_so() {
    watching(async |server, offers| {
        server.list("10", &[stateful_set("9", CREATED, 1, 1)]).await;
        let mut watch = server.watch("10").await;
        watch.event("ERROR", &status(410, "too old resource version: 10 (20)")).await;
        server.list("20", &[stateful_set("19", CREATED, 2, 2)]).await;
        until_workers(offers, 2).await;
        server.request().await.refuse(410, "too old resource version: 20 (30)").await;
        server.list("30", &[stateful_set("29", CREATED, 3, 3)]).await;
        until_workers(offers, 3).await;
        server.watch("30").await;
    })
    .await;
}

#[tokio::test]
async fn a_missing_role_is_named_and_works_once_it_is_there() {
    watching(async |server, offers| {
        let message = "statefulsets.apps is forbidden: User \"x\" cannot list resource";
        for _ in 0..2 {
            server.request().await.refuse(403, message).await;
            until_told(offers, "verbs [\"list\", \"watch\"] and a RoleBinding are missing").await;
        }
        server.list("10", &[stateful_set("9", CREATED, 1, 1)]).await;
        until_workers(offers, 1).await;
        server.request().await.refuse(403, message).await;
        until_told(offers, message).await;
        server.watch("10").await.bookmark("11").await;
        // Nothing has changed, but it is known that all is well again.
        until_workers(offers, 1).await;
    })
    .await;
}

#[tokio::test]
async fn a_set_that_is_deleted_is_told_and_one_made_anew_has_a_higher_generation() {
    watching(async |server, offers| {
        server.list("10", &[]).await;
        until_told(offers, "there is no such StatefulSet").await;
        let mut watch = server.watch("10").await;
        watch.event("ADDED", &stateful_set("11", CREATED, 7, 3)).await;
        let before = until_workers(offers, 3).await;
        watch.event("DELETED", &stateful_set("12", CREATED, 7, 3)).await;
        until_told(offers, "it was deleted").await;
        watch.event("ADDED", &stateful_set("13", LATER, 1, 2)).await;
        assert!(until_workers(offers, 2).await > before);
    })
    .await;
}

#[tokio::test]
async fn an_api_that_is_away_is_told_and_waited_for() {
    watching(async |server, offers| {
        drop(server.request().await);
        until_told(offers, "the API does not answer: ").await;
        server.request().await.refuse(500, "etcd is away").await;
        until_told(offers, "the API answers 500: etcd is away").await;
        server.list("10", &[stateful_set("9", CREATED, 1, 1)]).await;
        until_workers(offers, 1).await;
    })
    .await;
}

#[tokio::test]
async fn events_are_read_however_they_are_cut() {
    watching(async |server, offers| {
        server.list("10", &[stateful_set("9", CREATED, 1, 1)]).await;
        let mut watch = server.watch("10").await;
        let events: Vec<_> = [(2, 4), (3, 5), (4, 6)]
            .map(|(generation, replicas)| {
                line("MODIFIED", &stateful_set("11", CREATED, generation, replicas))
            })
            .into();
        let text = events.concat();
        let (first, rest) = text.split_at(events[0].len() / 2);
        watch.chunk(first).await;
        watch.chunk(rest).await;
        for replicas in [4, 5, 6] {
            until_workers(offers, replicas).await;
        }
    })
    .await;
}

#[tokio::test]
async fn an_api_that_has_too_much_to_do_or_no_longer_knows_us_is_asked_again() {
    watching(async |server, offers| {
        server.list("10", &[stateful_set("9", CREATED, 1, 2)]).await;
        server.watch("10").await.end().await;
        // The client library may ask again by itself, or leave that to us.
        server.request().await.refuse(429, "too many requests").await;
        server.request().await.refuse(401, "Unauthorized").await;
        until_told(offers, "the API answers 401: Unauthorized").await;
        let mut watch = server.watch("10").await;
        watch.event("MODIFIED", &stateful_set("12", CREATED, 2, 3)).await;
        until_workers(offers, 3).await;
    })
    .await;
}

/// An answer with all that servers write into one, beside what this client knows of.
#[tokio::test]
async fn a_whole_answer_of_a_server_is_understood() {
    watching(async |server, offers| {
        let answer = include_str!("list.json").replace("LATEST", "918273");
        server.request().await.answer(200, &serde_json::from_str(&answer).unwrap()).await;
        let topology = until(offers, Result::is_ok).await.unwrap();
        let expected = [0, 1, 2].map(|i| format!("worker-{i}.workers.single-state.svc:7000"));
        assert_eq!(topology.workers(), expected);
        let made = 1_781_778_600; // 2026-06-18T10:30:00Z
        assert_eq!(topology.generation().0, (made << 20) + 7);
        server.watch("918273").await;
    })
    .await;
}

#[test]
fn the_port_is_the_one_named_link_or_else_the_one_of_the_flags() {
    let mut set = stateful_set("1", CREATED, 1, 1);
    let address = |set: &Value| {
        let topology = workers().topology(&serde_json::from_value(set.clone()).unwrap());
        topology.unwrap().workers()[0].clone()
    };
    assert!(address(&set).ends_with(":7777"));
    set["spec"]["template"]["spec"]["containers"][0]["ports"].as_array_mut().unwrap().pop();
    assert!(address(&set).ends_with(":7000"));
}

#[test]
fn a_set_whose_pods_cannot_be_addressed_by_their_index_is_told_what_to_change() {
    for (key, value, wrong) in [
        ("serviceName", json!(""), "spec.serviceName"),
        ("ordinals", json!({"start": 1}), "spec.ordinals.start"),
        ("replicas", json!(100_000), "too many"),
    ] {
        let mut set = stateful_set("1", CREATED, 1, 1);
        set["spec"][key] = value;
        let offer = workers().topology(&serde_json::from_value(set).unwrap());
        assert!(offer.as_ref().is_err_and(|sentence| sentence.contains(wrong)), "{offer:?}");
    }
}

#[test]
fn delays_double_up_to_half_a_minute_and_are_jittered_in_full() {
    let longest: Vec<_> = (0..9).map(|failures| delay(failures, 1.0).as_millis()).collect();
    assert_eq!(longest, [250, 500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000]);
    assert_eq!(delay(9, 0.0), Duration::ZERO);
}
