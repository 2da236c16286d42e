//! Whatever comes from outside ends in one clear answer, and nothing else ends with it.

use anyhow::Result;
use serde_json::json;
use single_state_tests::browser::Browser;
use single_state_tests::cluster::{Cluster, Options, http};
use single_state_tests::process::{Process, program};
use tokio::process::Command;

async fn cluster() -> Result<Cluster> {
    Cluster::start(Options { workers: 1, ..Options::default() }).await
}

#[tokio::test]
async fn an_id_that_is_none_is_refused_before_the_upgrade() -> Result<()> {
    let cluster = cluster().await?;
    let long = "x".repeat(65);
    for bad in ["", "a%20b", "a%2Fb", "a.b", "%00", long.as_str()] {
        let refusal = Browser::connect_refused(&cluster.url(&format!("?session={bad}"))).await?;
        assert_eq!(refusal.status, 400, "{bad:?}");
        assert!(refusal.body.contains("a session id has 1 to 64 characters"), "{}", refusal.body);
    }
    Ok(())
}

#[tokio::test]
async fn unknown_paths_are_not_found_on_both_listeners() -> Result<()> {
    let cluster = cluster().await?;
    for path in ["/nothing", "/client/nothing.js", "/client/../Cargo.toml", "/metrics", "/status"] {
        assert_eq!(cluster.gateway.get(path).await?.0, 404, "{path}");
    }
    assert_eq!(cluster.gateway.admin_get("/ws").await?.0, 404);
    assert_eq!(cluster.workers[0].admin_get("/nothing").await?.0, 404);
    Ok(())
}

#[tokio::test]
async fn a_request_to_ws_that_is_no_websocket_is_told_so() -> Result<()> {
    let cluster = cluster().await?;
    let (status, body) = cluster.gateway.get("/ws").await?;
    assert_eq!((status, body.as_str()), (426, "open this address as a websocket\n"));
    let upgrade = "connection: upgrade\r\nupgrade: websocket\r\nhost: a\r\n";
    for (head, status) in [
        (format!("GET /ws HTTP/1.1\r\n{upgrade}sec-websocket-version: 12\r\n"), "426"),
        (format!("GET /ws HTTP/1.1\r\n{upgrade}sec-websocket-version: 13\r\n"), "400"),
        (
            format!(
                "GET /ws HTTP/1.1\r\n{upgrade}sec-websocket-version: 13\r\nsec-websocket-key: x\r\n"
            ),
            "400",
        ),
        (format!("POST /ws HTTP/1.1\r\n{upgrade}content-length: 0\r\n"), "405"),
        ("NONSENSE\r\n".to_owned(), "400"),
    ] {
        // The first answer's status; what follows on the connection does not matter.
        let head = format!("{head}\r\n");
        let answer = http(&cluster.gateway.address, &close_after(&head)).await?;
        assert_eq!(answer.split(' ').nth(1), Some(status), "{head}{answer}");
    }
    Ok(())
}

fn close_after(head: &str) -> String {
    head.replacen("connection: upgrade", "connection: upgrade, close", 1)
}

#[tokio::test]
async fn text_that_is_no_message_is_an_error_message_and_the_socket_stays() -> Result<()> {
    let cluster = cluster().await?;
    let mut browser = Browser::connect(&cluster.url("")).await?;
    let deep = format!("{{\"tag\":{}", "[".repeat(200_000));
    for bad in [
        "",
        "hello",
        "null",
        "[]",
        "{}",
        "{\"tag\":1}",
        "{\"tag\":\"_step\"}",
        "{\"tag\":\"unheard-of\"}",
        "{\"tag\":\"axpy\",\"a\":1e999,\"x\":[],\"y\":[]}",
        "{\"tag\":\"assign\"}",
        deep.as_str(),
    ] {
        browser.send_text(bad).await?;
        let answer = browser.receive().await?;
        let shown: String = bad.chars().take(60).collect();
        assert_eq!(answer["tag"], "error", "{shown}");
        assert!(answer["error"].as_str().is_some_and(|text| text.len() < 300), "{answer}");
    }
    browser.send_binary(vec![0, 255]).await?;
    assert_eq!(browser.receive().await?["tag"], "error", "the demo takes no bytes");
    assert_eq!(browser.ask(json!({"tag": "items"})).await?["tag"], "items");
    Ok(())
}

#[tokio::test]
async fn an_oversized_message_is_closed_with_1009_and_harms_nobody_else() -> Result<()> {
    let cluster = cluster().await?;
    let mut neighbour = Browser::connect(&cluster.url("?session=n")).await?;
    let mut browser = Browser::connect(&cluster.url("?session=b")).await?;
    // More than --max-message-bytes; the rest may not be read before the close comes.
    let _ = browser.send_text(&"x".repeat(2 << 20)).await;
    assert_eq!(browser.closed().await?, 1009);
    assert_eq!(neighbour.ask(json!({"tag": "items"})).await?["tag"], "items");
    Ok(())
}

#[tokio::test]
async fn what_is_not_the_websocket_protocol_is_closed_with_1002_or_1007() -> Result<()> {
    let cluster = cluster().await?;
    for (frame, code) in [
        // Reserved opcode; reserved bit; not masked; fragmented ping; text that is not UTF-8.
        (vec![0x83, 0x80, 0, 0, 0, 0], 1002_u16),
        (vec![0xc1, 0x80, 0, 0, 0, 0], 1002),
        (vec![0x81, 0x01, b'a'], 1002),
        (vec![0x09, 0x80, 0, 0, 0, 0], 1002),
        (vec![0x81, 0x82, 0, 0, 0, 0, 0xc3, 0x28], 1007),
    ] {
        let answer =
            single_state_tests::browser::raw_frame(&cluster.gateway.address, &frame).await?;
        assert_eq!(answer, Some(code), "{frame:02x?}");
    }
    let mut browser = Browser::connect(&cluster.url("")).await?;
    assert_eq!(browser.ask(json!({"tag": "items"})).await?["tag"], "items");
    Ok(())
}

#[tokio::test]
async fn a_link_of_anything_but_a_gateway_of_the_cluster_ends_alone() -> Result<()> {
    let cluster = cluster().await?;
    let worker = &cluster.workers[0].address;
    let mut browser = Browser::connect(&cluster.url("")).await?;
    for hostile in [
        "GET / HTTP/1.1\r\n\r\n",
        "\0\0\0\0\0\0\0\0\0",
        "\u{7f}\u{7f}\u{7f}\u{7f}\u{7f}\u{7f}\u{7f}\u{7f}\u{7f}",
    ] {
        http(worker, hostile).await?;
    }
    assert_eq!(browser.ask(json!({"tag": "items"})).await?["tag"], "items");
    Ok(())
}

#[tokio::test]
async fn all_bad_flags_are_told_in_one_go_and_the_exit_code_is_64() -> Result<()> {
    for (name, line, flags) in [
        (
            "gateway",
            "run --listen nowhere --placement ring --workers a:0 --park-timeout soon --nonsense",
            ["--listen", "--placement", "--workers", "--park-timeout", "--nonsense"],
        ),
        (
            "worker",
            "--index 5000 --listen nowhere --store redis://x --log-format xml --nonsense",
            ["--index", "--listen", "--store", "--log-format", "--nonsense"],
        ),
    ] {
        let mut command = Command::new(program(name));
        command.args(line.split(' '));
        let mut process = Process::spawn(name, command)?;
        assert_eq!(process.wait().await?.code(), Some(64), "{name}");
        for flag in flags {
            process.wait_for_line(|line| line.contains(flag).then_some(())).await?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn an_address_that_is_taken_is_one_sentence_and_exit_code_1() -> Result<()> {
    let cluster = cluster().await?;
    let mut command = Command::new(program("worker"));
    command.args(["--listen", &cluster.gateway.address, "--admin-listen", "127.0.0.1:0"]);
    let mut process = Process::spawn("worker", command)?;
    assert_eq!(process.wait().await?.code(), Some(1));
    let said = format!(
        "cannot listen on {} (--listen and --admin-listen choose another address): Address",
        cluster.gateway.address
    );
    process.wait_for_line(|line| line.contains(&said).then_some(())).await
}
