//! The files of the page and the client library.

use std::{collections::BTreeSet, fs, path::Path};

use newsfeed::http::web::FILES;

use crate::support::{bed::Bed, raw};

crate::on_every_engine!(each_file_is_served_with_its_type_and_headers);

async fn each_file_is_served_with_its_type_and_headers(bed: &Bed) {
    let node = bed.node().await;
    for file in FILES {
        let answer = node.send("GET", file.path, &[]).await;
        assert_eq!(answer.status, 200, "{}", file.path);
        assert_eq!(answer.body, file.content.as_bytes(), "{}", file.path);
        let header = |name| answer.header(name).unwrap_or_default();
        let wanted = match file.path.rsplit_once('.').map(|(_, suffix)| suffix) {
            None => "text/html; charset=utf-8",
            Some("js") => "text/javascript; charset=utf-8",
            Some("ts") => "application/typescript; charset=utf-8",
            Some("css") => "text/css; charset=utf-8",
            Some("svg") => "image/svg+xml",
            Some(other) => panic!("{other}?"),
        };
        assert_eq!(header("content-type"), wanted, "{}", file.path);
        assert_eq!(header("cache-control"), "no-cache");
        assert_eq!(header("x-content-type-options"), "nosniff");
        assert_eq!(header("x-frame-options"), "DENY");
        assert_eq!(header("referrer-policy"), "no-referrer");
        let policy = header("content-security-policy");
        assert!(policy.starts_with("default-src 'self';") && !policy.contains("unsafe"));

        let known = [("if-none-match", header("etag"))];
        let same = node.send("GET", file.path, &known).await;
        assert_eq!((same.status, same.body.len()), (304, 0), "{}", file.path);
        assert_eq!(same.header("etag"), answer.header("etag"));
        let other = node
            .send("GET", file.path, &[("if-none-match", "\"0\"")])
            .await;
        assert_eq!(other.status, 200);
        let head = raw::request("HEAD", file.path, &[], b"");
        let head = raw::exchange(node.address, &head).await;
        assert_eq!((head.status, head.body.len()), (200, 0));
        let post = raw::request("POST", file.path, &[], b"");
        let post = raw::exchange(node.address, &post).await;
        post.problem(405, "method_not_allowed").expect(file.path);
    }
    let page = node.send("GET", "/?user=ben", &[]).await;
    assert_eq!(page.body, FILES[0].content.as_bytes());
}

/// Collects the paths of all files in `folder`, prefixed with `under`.
fn on_disk(folder: &Path, under: &str, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let entry = entry.expect("an entry");
        let name = format!("{under}/{}", entry.file_name().to_str().expect("UTF-8"));
        match entry.path().is_dir() {
            true => on_disk(&entry.path(), &name, found),
            false => drop(found.insert(name)),
        }
    }
}

#[test]
fn all_files_are_served_and_refer_to_no_others() {
    let mut files = BTreeSet::new();
    on_disk(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("src/web"),
        "",
        &mut files,
    );
    assert!(files.remove("/index.html") && files.insert("/".to_owned()));
    let served: BTreeSet<_> = FILES.iter().map(|file| file.path.to_owned()).collect();
    assert_eq!(files, served);

    let other: BTreeSet<_> = ["/openapi.yaml", "/docs"].map(str::to_owned).into();
    for file in FILES.iter().filter(|file| !file.path.ends_with(".d.ts")) {
        let base = reqwest::Url::parse("http://host/").expect("a URL");
        let base = base.join(file.path).expect("a path");
        for reference in references(file.content) {
            let target = base.join(reference).expect("a reference");
            assert_eq!(
                target.host_str(),
                Some("host"),
                "{reference} in {}",
                file.path
            );
            let path = target.path().to_owned();
            assert!(
                served.contains(&path) || other.contains(&path),
                "{reference} in {}",
                file.path
            );
        }
        let inline = [
            "style=",
            "onclick=\"",
            "<script>",
            "javascript:",
            "innerHTML",
            "eval(",
        ];
        for inline in inline {
            assert!(!file.content.contains(inline), "{inline} in {}", file.path);
        }
    }
}

/// What a file imports, links to and embeds.
fn references(content: &str) -> Vec<&str> {
    let starts = [" from \"", "src=\"", "href=\"", "url("];
    let after = starts.iter().flat_map(|start| content.split(start).skip(1));
    let ends = after.filter_map(|rest| rest.split(['"', ')']).next());
    ends.filter(|reference| !reference.starts_with('#'))
        .collect()
}
