//! Who may open a session, and from which pages.

use anyhow::Result;
use serde_json::json;
use single_state_tests::browser::Browser;
use single_state_tests::cluster::{Cluster, Options};

const OWN: &str = "first";

/// A cluster whose gateway signs session ids with keys made of these digits.
async fn signed(keys: &[char]) -> Result<(Cluster, tempfile::NamedTempFile)> {
    let file = tempfile::NamedTempFile::new()?;
    let lines: Vec<String> = keys.iter().map(|digit| digit.to_string().repeat(64)).collect();
    std::fs::write(file.path(), lines.join("\n"))?;
    let options = Options { workers: 1, ..Options::default() };
    let path = file.path().to_string_lossy().into_owned();
    Ok((Cluster::start(options.signed(&path)).await?, file))
}

/// The token that the gateway gave a browser.
fn token(browser: &Browser) -> String {
    let cookie = browser.header("set-cookie").unwrap_or_default();
    let pair = cookie.split(';').next().unwrap_or_default();
    pair.strip_prefix("single_state=").unwrap_or_default().to_owned()
}

#[tokio::test]
async fn a_token_opens_its_session_by_cookie_and_by_query_and_is_renewed() -> Result<()> {
    let (cluster, _keys) = signed(&['a']).await?;
    let mut first = Browser::connect(&cluster.url("")).await?;
    first.ask(json!({"tag": "append", "item": OWN})).await?;
    let id = first.header("x-single-state-session").unwrap_or_default().to_owned();
    let token = token(&first);
    assert!(token.starts_with(&format!("{id}.")), "{token}");
    let cookie = format!("single_state={token}");
    let mut back = Browser::connect_with_cookie(&cluster.url(""), &cookie).await?;
    assert_eq!(back.header("x-single-state-session"), Some(id.as_str()));
    assert!(back.header("set-cookie").is_some(), "each answer renews the token");
    back.wait_for("count", &json!(1)).await?;
    let mut by_query = Browser::connect(&cluster.url(&format!("?session={token}"))).await?;
    by_query.wait_for("count", &json!(1)).await
}

#[tokio::test]
async fn an_id_that_no_gateway_signed_opens_nothing() -> Result<()> {
    let (cluster, _keys) = signed(&['a']).await?;
    let browser = Browser::connect(&cluster.url("")).await?;
    let (id, token) =
        (browser.header("x-single-state-session").unwrap_or_default(), token(&browser));
    let (claim, mac) = token.rsplit_once('.').unwrap_or_default();
    let other = if mac.starts_with('A') { "B" } else { "A" };
    for forged in [id.to_owned(), claim.to_owned(), format!("{claim}.{other}{}", &mac[1..])] {
        let refused = Browser::connect_refused(&cluster.url(&format!("?session={forged}"))).await?;
        assert_eq!(refused.status, 401, "{forged}");
        let planted = format!("single_state={forged}");
        let fresh = Browser::connect_with_cookie(&cluster.url(""), &planted).await?;
        assert_ne!(fresh.header("x-single-state-session"), Some(id), "a bad cookie is replaced");
    }
    Ok(())
}

#[tokio::test]
async fn a_token_stolen_before_a_key_was_removed_opens_nothing_after() -> Result<()> {
    let (old, _old_keys) = signed(&['a']).await?;
    let stolen = token(&Browser::connect(&old.url("")).await?);
    let (rotating, _both) = signed(&['b', 'a']).await?;
    Browser::connect(&rotating.url(&format!("?session={stolen}"))).await?;
    let (new, _new_keys) = signed(&['b']).await?;
    let refused = Browser::connect_refused(&new.url(&format!("?session={stolen}"))).await?;
    assert_eq!(refused.status, 401);
    Ok(())
}

#[tokio::test]
async fn pages_of_foreign_origins_are_refused_before_the_upgrade() -> Result<()> {
    let options = Options { workers: 1, ..Options::default() };
    let options = options.gateway_flag("--allow-origin", "https://app.example.org");
    let cluster = Cluster::start(options).await?;
    let own = format!("http://{}", cluster.gateway.address);
    for origin in [own.as_str(), "https://app.example.org"] {
        Browser::connect_from(&cluster.url(""), origin).await?;
    }
    let look_alike = format!("{own}.evil.example");
    for origin in
        ["null", "https://evil.example", look_alike.as_str(), "https://app.example.org.evil"]
    {
        let refused = Browser::connect_from(&cluster.url(""), origin).await.map(drop);
        let error = format!("{:#}", refused.expect_err(origin));
        assert!(error.contains("403"), "{origin}: {error}");
    }
    Ok(())
}

#[tokio::test]
async fn pages_over_tls_get_a_cookie_that_no_sibling_can_plant() -> Result<()> {
    let options = Options { workers: 1, ..Options::default() };
    let options = options.gateway_flag("--allow-origin", "https://app.example.org");
    let cluster = Cluster::start(options).await?;
    let browser = Browser::connect_from(&cluster.url(""), "https://app.example.org").await?;
    let cookies: Vec<_> = browser.headers.get_all("set-cookie").iter().collect();
    assert_eq!(cookies.len(), 2);
    assert!(cookies.iter().all(|cookie| cookie.to_str().is_ok_and(|c| c.ends_with("; Secure"))));
    assert!(cookies[1].to_str()?.starts_with("__Host-single_state="));
    Ok(())
}
