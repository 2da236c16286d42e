//! What authors would write without us: one process, one tokio-tungstenite task for each browser,
//! the same app. The measure that the gateway and its workers are held against.
//!
//! `baseline HOST:PORT`

use futures_util::{SinkExt, StreamExt};
use serde::{Deserialize, Serialize};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

#[derive(Deserialize)]
#[serde(tag = "tag", rename_all = "snake_case")]
enum Input {
    Axpy { a: f64, x: Vec<f64>, y: Vec<f64> },
    Append { item: String },
}

#[derive(Serialize)]
struct Assign<T> {
    tag: &'static str,
    key: &'static str,
    value: T,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:0".to_owned());
    let listener = TcpListener::bind(&address).await?;
    eprintln!(
        "{}",
        serde_json::json!({"message": "baseline listens", "listen": listener.local_addr()?})
    );
    let tasks = tokio::task::LocalSet::new();
    tasks
        .run_until(async {
            loop {
                let (stream, _) = listener.accept().await?;
                tokio::task::spawn_local(serve(stream));
            }
        })
        .await
}

async fn serve(stream: TcpStream) -> anyhow::Result<()> {
    stream.set_nodelay(true)?;
    let config = WebSocketConfig::default().read_buffer_size(4096).write_buffer_size(4096);
    let mut socket = tokio_tungstenite::accept_async_with_config(stream, Some(config)).await?;
    let mut items: Vec<String> = Vec::new();
    while let Some(message) = socket.next().await {
        let Message::Text(text) = message? else { continue };
        let answer = match serde_json::from_str::<Input>(&text)? {
            Input::Axpy { a, x, y } => {
                let value: Vec<f64> = x.iter().zip(&y).map(|(x, y)| a * x + y).collect();
                serde_json::to_string(&Assign { tag: "assign", key: "result_vector", value })?
            }
            Input::Append { item } => {
                items.push(item);
                serde_json::to_string(&Assign { tag: "assign", key: "count", value: items.len() })?
            }
        };
        socket.send(Message::text(answer)).await?;
    }
    Ok(())
}
