//! What `gateway dev` serves beside sessions: pages, our client, npm packages.

use anyhow::{Context, Result};
use single_state_tests::cluster::http;
use single_state_tests::dev::{Dev, Project};

#[tokio::test]
async fn a_web_folder_is_served_with_the_right_types_and_nothing_around_it() -> Result<()> {
    let project = Project::new().await?;
    project.write("secret.txt", "secret")?;
    project.write("web/index.html", "<!doctype html>my page")?;
    for file in ["app.js", "style.css", "data.json", "picture.svg", "deep/page.html"] {
        project.write(&format!("web/{file}"), "my file")?;
    }
    let dev = project.dev(&["--workers", "1", "--web", "web"]).await?;
    let page = get(&dev, "/").await?;
    assert_eq!((page.status, page.body.as_str()), (200, "<!doctype html>my page"));
    for (path, content_type) in [
        ("/", "text/html"),
        ("/index.html", "text/html"),
        ("/app.js", "text/javascript"),
        ("/style.css", "text/css"),
        ("/data.json", "application/json"),
        ("/picture.svg", "image/svg+xml"),
        ("/deep/page.html", "text/html"),
    ] {
        let answer = get(&dev, path).await?;
        let served = answer.header("content-type").unwrap_or_default();
        assert!(answer.status == 200 && served.starts_with(content_type), "{path}: {answer:?}");
    }
    for path in [
        "/no-such-file",
        "/../secret.txt",
        "/%2e%2e/secret.txt",
        "/%2E%2E%2Fsecret.txt",
        "/..%2fsecret.txt",
        "/deep/../../secret.txt",
        "/.%2e/secret.txt",
        "/..\\secret.txt",
        "/%00",
        "/index.html/x",
        &format!("/{}", "x".repeat(300)),
    ] {
        let answer = get(&dev, path).await?;
        assert!((400..500).contains(&answer.status), "{path}: {answer:?}");
    }
    Ok(())
}

#[tokio::test]
async fn our_client_is_served_beside_any_page() -> Result<()> {
    let project = Project::new().await?;
    project.write("web/index.html", "my page")?;
    let dev = project.dev(&["--workers", "1", "--web", "web"]).await?;
    let client = get(&dev, "/client/single-state.js").await?;
    let content_type = client.header("content-type").unwrap_or_default();
    assert!(client.status == 200 && content_type.starts_with("text/javascript"), "{client:?}");
    assert!(client.body.contains("export function openSession"), "{}", client.body);
    for import in client.body.lines().filter_map(|line| line.split_once(" from \"./")) {
        let path = format!("/client/{}", import.1.trim_end_matches("\";"));
        assert_eq!(get(&dev, &path).await?.status, 200, "{path}");
    }
    assert_eq!(get(&dev, "/client/../Cargo.toml").await?.status, 404);
    Ok(())
}

#[tokio::test]
async fn npm_packages_come_from_the_vendor_folder() -> Result<()> {
    let project = Project::new().await?;
    project.write("secret.js", "secret")?;
    project.write("node_modules/htm/dist/htm.module.js", "export default 'htm'")?;
    let dev = project.dev(&["--workers", "1", "--vendor", "node_modules"]).await?;
    let module = get(&dev, "/vendor/htm/dist/htm.module.js").await?;
    assert_eq!((module.status, module.body.as_str()), (200, "export default 'htm'"));
    let content_type = module.header("content-type").unwrap_or_default();
    assert!(content_type.starts_with("text/javascript"), "modules run with no other type");
    for path in ["/vendor/no-such-package/a.js", "/vendor/../secret.js", "/vendor/%2e%2e/secret.js"]
    {
        assert_eq!(get(&dev, path).await?.status, 404, "{path}");
    }
    Ok(())
}

#[tokio::test]
async fn without_a_vendor_folder_browsers_are_sent_to_a_public_copy() -> Result<()> {
    let project = Project::new().await?;
    for flags in [&["--workers", "1"][..], &["--workers", "1", "--vendor", "no/such/folder"]] {
        let dev = project.dev(flags).await?;
        let answer = get(&dev, "/vendor/htm/dist/htm.module.js").await?;
        let location = answer.header("location").unwrap_or_default();
        assert_eq!(answer.status, 302, "{answer:?}");
        assert!(location.starts_with("https://"), "{location}");
        assert!(location.ends_with("/dist/htm.module.js"), "{location}");
        assert_eq!(get(&dev, "/vendor/left-pad/index.js").await?.status, 404);
    }
    Ok(())
}

/// An answer of the listener for browsers.
#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }
}

/// Asks for a path exactly as it is written.
async fn get(dev: &Dev, path: &str) -> Result<Answer> {
    let address = &dev.gateway.address;
    let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    let answer = http(address, &request).await?;
    let (head, body) = answer.split_once("\r\n\r\n").context("an answer without a head")?;
    let status = head.split(' ').nth(1).context("an answer without a status")?.parse()?;
    Ok(Answer { status, head: head.to_owned(), body: body.to_owned() })
}
