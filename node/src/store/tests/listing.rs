//! Listings against a model that looks at every name.

use std::collections::BTreeSet;

use super::*;

async fn fill(store: &Store, names: &[(String, bool)]) {
    let (seat, mut outputs) = install(store);
    for (number, (name, live)) in names.iter().enumerate() {
        let survivor = survivor(name, number as u64 + 1, 1, *live);
        seat.send(Input::Put(Box::new(survivor))).await.unwrap();
    }
    for _ in names {
        outputs.recv().await.unwrap();
    }
}

/// All entries of a listing, page by page.
async fn walk(store: &Store, prefix: &str, delimiter: Option<&str>, limit: usize) -> (Vec<String>, usize) {
    let mut found = Vec::new();
    let mut after = None;
    let mut pages = 0;
    loop {
        let page = store.list(prefix.into(), delimiter.map(Into::into), after.clone(), limit).await.unwrap();
        pages += 1;
        let mut entries: Vec<String> = page.files.iter().map(|file| file.name.to_string()).collect();
        entries.extend(page.prefixes);
        entries.sort();
        assert!(entries.len() <= limit);
        assert!(page.next.is_none() || entries.len() == limit, "a page that is not the last is full");
        assert!(page.next.is_none() || page.next.as_ref() == entries.last());
        found.extend(entries);
        match page.next {
            Some(next) => after = Some(next),
            None => return (found, pages),
        }
    }
}

fn expected(names: &[(String, bool)], prefix: &str, delimiter: Option<&str>) -> Vec<String> {
    let entries: BTreeSet<String> = names
        .iter()
        .filter(|(name, live)| *live && name.starts_with(prefix))
        .map(|(name, _)| match delimiter.and_then(|d| name[prefix.len()..].find(d).map(|at| at + d.len())) {
            Some(end) => name[..prefix.len() + end].to_owned(),
            None => name.clone(),
        })
        .collect();
    entries.into_iter().collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_names_are_listed_in_pages_with_and_without_folding() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let odd =
        ["a", "a/b\u{10ffff}", "a/b\u{10ffff}/c", "a/b\u{d7ff}/c", "a/b\u{e000}", "a-b", "é/é", "a/c/d/e"];
    let names: Vec<(String, bool)> = (0..10_000)
        .map(|n: u32| (format!("dir{}/sub{}/file{n:05}", n % 7, n % 43), !n.is_multiple_of(11)))
        .chain((0..30).map(|n| (format!("gone{n}/file"), false)))
        .chain(odd.map(|name| (name.to_owned(), true)))
        .collect();
    fill(&store, &names).await;
    assert_eq!(store.usage().await.unwrap().files as usize, expected(&names, "", None).len());
    for (prefix, delimiter, limit) in [
        ("", None, 1_000),
        ("", Some("/"), 3),
        ("", Some("/"), 1_000),
        ("dir3/", Some("/"), 10),
        ("dir3", Some("/"), 1),
        ("dir3/sub1", None, 7),
        ("dir3/sub1", Some("file"), 2),
        ("a/", Some("/"), 1),
        ("a/b", Some("\u{10ffff}"), 2),
        ("gone", None, 10),
        ("nothing", Some("/"), 10),
        ("é", Some("é"), 1),
    ] {
        let (found, _) = walk(&store, prefix, delimiter, limit).await;
        assert_eq!(found, expected(&names, prefix, delimiter), "{prefix:?} {delimiter:?} {limit}");
    }
    let (_, pages) = walk(&store, "", Some("/"), 1_000).await;
    assert_eq!(pages, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_head_is_listed_with_the_number_of_its_conflicts() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let (seat, mut outputs) = install(&store);
    let all = [
        survivor("both", 1, 3, true),
        survivor("both", 2, 5, true),
        survivor("both", 3, 4, true),
        survivor("both", 4, 9, false),
        survivor("dead", 5, 1, false),
        survivor("one", 6, 1, true),
    ];
    for survivor in &all {
        seat.send(Input::Put(Box::new(survivor.clone()))).await.unwrap();
        outputs.recv().await.unwrap();
    }
    let page = store.list(String::new(), None, None, 10).await.unwrap();
    let heads: Vec<_> =
        page.files.iter().map(|f| (f.name.as_str(), f.head.dot.sequence, f.conflicts)).collect();
    assert_eq!(heads, [("both", 2, 2), ("one", 6, 0)]);
    let survivors = store.survivors(&"both".parse().unwrap()).await.unwrap();
    assert_eq!(survivors, all[..4]);
    assert!(store.survivors(&"none".parse().unwrap()).await.unwrap().is_empty());
    store.note_links(dot(6), &[chunk("x").id()]).await.unwrap();
}

#[tokio::test]
async fn any_after_is_taken() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let names: Vec<(String, bool)> = ["a/1", "a/2", "b", "c/1"].map(|name| (name.to_owned(), true)).to_vec();
    fill(&store, &names).await;
    for (after, wanted) in [
        ("", vec!["a/", "b", "c/"]),
        ("a", vec!["a/", "b", "c/"]),
        ("a/", vec!["b", "c/"]),
        ("a/1", vec!["b", "c/"]),
        ("b", vec!["c/"]),
        ("c/zz", vec![]),
        ("\u{10ffff}/", vec![]),
    ] {
        let page = store.list(String::new(), Some("/".into()), Some(after.into()), 10).await.unwrap();
        let mut found: Vec<String> = page.files.iter().map(|f| f.name.to_string()).collect();
        found.extend(page.prefixes);
        found.sort();
        assert_eq!(found, wanted, "after {after:?}");
        assert_eq!(page.next, None);
    }
}
