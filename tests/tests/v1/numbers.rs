//! Numbers as clients may count them, and as they may not: who does not keep to it harms only its own
//! channel.

use anyhow::Result;
use serde_json::{Value, json};
use single_state_tests::cluster::Cluster;

use crate::client::{CHANNEL, Client, append, hello, one_worker};

/// A client of the session that all is tried on.
async fn client(cluster: &Cluster, channel: &str) -> Result<Client> {
    Ok(Client::welcomed(cluster, "shared", channel).await?.0)
}

#[tokio::test]
async fn an_input_that_is_repeated_is_applied_once_and_acknowledged_again() -> Result<()> {
    let cluster = one_worker().await?;
    let mut client = client(&cluster, CHANNEL).await?;
    for n in [1, 2] {
        client.say(append(n)).await?;
        client.acked(n).await?;
    }
    for n in [2, 1] {
        client.say(append(n)).await?;
        client.acked(n).await?;
    }
    assert_eq!(client.list(3).await?, json!([1, 2]));
    Ok(())
}

#[tokio::test]
async fn numbers_that_are_left_out_or_none_are_closed_with_4400_and_harm_nobody_else() -> Result<()>
{
    let cluster = one_worker().await?;
    let mut neighbour = client(&cluster, CHANNEL).await?;
    let ping = r#"{"tag":"ping"}"#;
    let bad = [
        "2",
        "0",
        "-1",
        "1.0",
        "1e0",
        "1e3",
        "0x1",
        "",
        "1.5",
        "\"1\"",
        "null",
        "true",
        "01",
        "+1",
        "NaN",
        "[1]",
        "9007199254740992",
        "18446744073709551615",
        "18446744073709551616",
        "18446744073709551617",
    ];
    let bad = bad.map(|number| format!("[{number},{ping}]"));
    let others = [
        "[1]",
        "[1,]",
        "[]",
        "{}",
        "1",
        "ping",
        r#"[{"tag":"ping"}]"#,
        r#"{"tag":"ping"}"#,
        r#"["ack"]"#,
        r#"["ack",1]"#,
        r#"["ack",1,-1]"#,
        r#"["ack",1,1.0]"#,
        r#"["ack",1,1e3]"#,
        r#"["ack",1,"1"]"#,
        r#"["ack",1,18446744073709551616]"#,
        r#"["ack",null,1]"#,
        r#"["bye",{}]"#,
    ]
    .map(str::to_owned);
    for (i, text) in bad.iter().chain(&others).enumerate() {
        let mut client = client(&cluster, &format!("channel-bad-{i}")).await?;
        client.say_text(text).await?;
        assert_eq!(client.closed().await?, 4400, "{text}");
    }
    let bytes = [&[][..], &[0; 7], &[0; 8], &[0, 0, 0, 0, 0, 0, 0, 2], &[255; 9]];
    for (i, bytes) in bytes.into_iter().enumerate() {
        let mut client = client(&cluster, &format!("channel-bytes-{i}")).await?;
        client.say_binary(bytes.to_vec()).await?;
        assert_eq!(client.closed().await?, 4400, "{bytes:?}");
    }
    neighbour.say(append(1)).await?;
    neighbour.acked(1).await?;
    assert_eq!(neighbour.list(2).await?, json!([1]));
    Ok(())
}

#[tokio::test]
async fn what_came_before_a_gap_is_applied() -> Result<()> {
    let cluster = one_worker().await?;
    let mut client = client(&cluster, CHANNEL).await?;
    for n in [1, 2, 4, 3] {
        client.say(append(n)).await?;
    }
    assert_eq!(client.closed().await?, 4400);
    let (mut back, _) = Client::greeted(&cluster, "shared", hello(CHANNEL, 2)).await?;
    assert_eq!(back.list(3).await?, json!([1, 2]));
    Ok(())
}

#[tokio::test]
async fn an_acknowledgement_of_the_future_is_closed_with_4400_and_one_of_another_epoch_ignored()
-> Result<()> {
    let cluster = one_worker().await?;
    let mut neighbour = self::client(&cluster, "channel-0002").await?;
    let (mut client, welcome) = Client::welcomed(&cluster, "shared", CHANNEL).await?;
    let epoch = welcome["epoch"].as_u64().unwrap_or_default();
    client.say(append(1)).await?;
    let (revision, _) = client.output("assign").await?;
    for (epoch, revision) in [(epoch - 1, u64::MAX), (epoch + 1, 99), (epoch, 0), (epoch, revision)]
    {
        client.say(json!(["ack", epoch, revision])).await?;
    }
    assert_eq!(client.list(2).await?, json!([1]), "none of these harms it");
    client.say(json!(["ack", epoch, revision + 2])).await?;
    assert_eq!(client.closed().await?, 4400);
    assert_eq!(neighbour.list(1).await?, json!([1]));
    let (mut back, welcome) = Client::greeted(&cluster, "shared", hello(CHANNEL, 2)).await?;
    assert_eq!(welcome["applied"], 2);
    assert_eq!(back.list(3).await?, json!([1]), "only that connection has ended");
    Ok(())
}

#[tokio::test]
async fn a_higher_attach_takes_the_channel_over_and_others_are_refused() -> Result<()> {
    let cluster = one_worker().await?;
    let mut first = client(&cluster, CHANNEL).await?;
    for late in [hello(CHANNEL, 1), hello(CHANNEL, 1)] {
        let mut client = Client::connect(&cluster, "?session=shared").await?;
        client.say(late).await?;
        assert_eq!(client.closed().await?, 4409, "the channel has a connection of this number");
    }
    first.say(append(1)).await?;
    first.acked(1).await?;

    let (mut third, welcome) = Client::greeted(&cluster, "shared", hello(CHANNEL, 3)).await?;
    assert_eq!(welcome["applied"], 1);
    assert_eq!(first.closed().await?, 4409, "it was taken over");
    let mut second = Client::connect(&cluster, "?session=shared").await?;
    second.say(hello(CHANNEL, 2)).await?;
    assert_eq!(second.closed().await?, 4409, "a newer connection was there");
    third.say(append(2)).await?;
    third.acked(2).await?;
    assert_eq!(third.list(3).await?, json!([1, 2]));
    Ok(())
}

#[tokio::test]
async fn a_channel_that_the_session_forgot_goes_on_from_any_number_up_to_the_last() -> Result<()> {
    let cluster = one_worker().await?;
    let last = (1_u64 << 53) - 1;
    let (mut client, welcome) = Client::greeted(&cluster, "shared", hello(CHANNEL, 2)).await?;
    assert_eq!(welcome["applied"], Value::Null);
    for n in [last - 1, last] {
        client.say(append(n)).await?;
        client.acked(n).await?;
    }
    client.say(append(last)).await?;
    client.acked(last).await?;
    let mut other = self::client(&cluster, "channel-0002").await?;
    assert_eq!(other.list(1).await?, json!([last - 1, last]));
    client.say(append(last + 1)).await?;
    assert_eq!(client.closed().await?, 4400);
    Ok(())
}

#[tokio::test]
async fn a_frame_as_long_as_the_welcome_says_is_taken_and_a_longer_one_is_closed_with_1009()
-> Result<()> {
    let cluster = one_worker().await?;
    let (mut client, welcome) = Client::welcomed(&cluster, "shared", CHANNEL).await?;
    let longest = welcome["limits"]["frame_bytes"].as_u64().unwrap_or_default() as usize;
    let frame = |n: u64, length| [&n.to_be_bytes()[..], &vec![7; length - 8]].concat();
    client.say_binary(frame(1, longest)).await?;
    assert_eq!(client.next_binary().await?.len(), longest);
    client.say_binary(frame(2, longest + 1)).await?;
    assert_eq!(client.closed().await?, 1009);
    Ok(())
}

#[tokio::test]
async fn binary_messages_carry_their_number_in_front_both_ways() -> Result<()> {
    let cluster = one_worker().await?;
    let mut client = client(&cluster, CHANNEL).await?;
    let mut before = 0;
    for (n, length) in [(1_u64, 0), (2, 3), (3, 2000), (4, 200_000)] {
        let payload: Vec<u8> = (0..length).map(|i| (i % 251) as u8).collect();
        client.say_binary([&n.to_be_bytes()[..], &payload].concat()).await?;
        let echo = client.next_binary().await?;
        let (head, body) = echo.split_at(8);
        let revision = u64::from_be_bytes(head.try_into()?);
        assert!(revision > before, "{revision}");
        assert!(body == payload, "{length} bytes");
        before = revision;
    }
    client.say_binary([&2_u64.to_be_bytes()[..], b"again"].concat()).await?;
    client.acked(2).await?;
    let text = "x".repeat(100_000);
    client.say(json!([5, {"tag": "assign", "key": "text", "value": text}])).await?;
    let (revision, output) = client.output("assign").await?;
    assert!(revision > before && output["value"] == text, "a long text in its envelope");
    Ok(())
}
