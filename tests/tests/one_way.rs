//! Imports run one way: no two files of a crate import each other, by whatever detour, and neither do
//! two of its parts. A file may take from the modules it is inside of what these lay open to all.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

type Module = Vec<String>;
type Imports = BTreeMap<Module, BTreeSet<Module>>;

/// The parts of the node, each of which imports only those after it. The composition root knows all.
const NODE: [&str; 10] = [
    "node",
    "gateway",
    "service",
    "replication",
    "swarm",
    "store",
    "gossip",
    "config",
    "telemetry",
    "throttle",
];

fn files(folder: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder of sources is readable") {
        let path = entry.expect("an entry").path();
        match path.file_name().and_then(|name| name.to_str()) {
            Some("tests" | "tests.rs") => {}
            _ if path.is_dir() => files(&path, into),
            Some(name) if name.ends_with(".rs") => into.push(path),
            _ => {}
        }
    }
}

/// The crate's modules with their texts: without comments, and without the tests at their end.
fn modules(package: &str) -> BTreeMap<Module, String> {
    let root =
        Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").join(package).join("src");
    let mut found = Vec::new();
    files(&root, &mut found);
    let module = |path: PathBuf| {
        let inside = path.strip_prefix(&root).expect("under the root").with_extension("");
        let mut module: Module = inside.iter().map(|part| part.to_str().expect("plain").to_owned()).collect();
        module.pop_if(|last| matches!(last.as_str(), "lib" | "main"));
        (module, strip(&fs::read_to_string(&path).expect("a source is readable")))
    };
    found.into_iter().map(module).collect()
}

fn strip(text: &str) -> String {
    let end = ["#[cfg(test)]\nmod tests", "#[cfg(test)]\npub(crate) mod tests"];
    let end = end.iter().filter_map(|mark| text.find(mark)).min().unwrap_or(text.len());
    text[..end].lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

/// Every path that begins at `first`, as written: `use` trees give one for each leaf.
fn paths(text: &str, first: &str) -> Vec<Module> {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let mut found = Vec::new();
    for (at, _) in text.match_indices(&format!("{first}::")) {
        let before = text[..at].chars().next_back();
        if before.is_none_or(|c| !is_word(c) && c != ':') {
            tree(&text[at..], vec![], &mut found);
        }
    }
    found
}

/// Reads one tree of a `use`, and says what is left of the text.
fn tree<'a>(text: &'a str, mut path: Module, found: &mut Vec<Module>) -> &'a str {
    let mut text = text.trim_start();
    loop {
        if let Some(mut inside) = text.strip_prefix('{') {
            loop {
                inside = inside.trim_start();
                if let Some(rest) = inside.strip_prefix('}') {
                    return rest;
                }
                let rest = tree(inside, path.clone(), found).trim_start();
                let rest =
                    rest.strip_prefix("as ").map_or(rest, |r| r.trim_start_matches(|c| !",}".contains(c)));
                inside = rest.strip_prefix(',').unwrap_or(rest);
                if inside.len() == text.len() || inside.is_empty() {
                    return inside;
                }
            }
        }
        let length = text.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(text.len());
        if length > 0 {
            path.push(text[..length].to_owned());
        }
        match text[length..].strip_prefix("::") {
            Some(rest) => text = rest,
            None => {
                found.push(path);
                // What is no name, such as `*`, ends here too.
                let skip = usize::from(length == 0 && !text.is_empty());
                return text.get(length + skip..).unwrap_or("");
            }
        }
    }
}

/// Who imports whom. What a module takes from one that it is inside of does not count.
fn imports(modules: &BTreeMap<Module, String>) -> Imports {
    let mut imports = Imports::new();
    for (module, text) in modules {
        let children = modules.keys().filter(|m| m.len() == module.len() + 1 && m.starts_with(module));
        let children: Vec<&str> = children.filter_map(|child| child.last().map(String::as_str)).collect();
        let firsts = ["crate", "super", "self"].into_iter().chain(children.iter().copied());
        for path in firsts.flat_map(|first| paths(text, first)) {
            let mut base = if path[0] == "crate" { vec![] } else { module.clone() };
            let mut rest = &path[..];
            while let Some(("crate" | "super" | "self", after)) =
                rest.split_first().map(|(f, a)| (f.as_str(), a))
            {
                if rest[0] == "super" {
                    base.pop();
                }
                rest = after;
            }
            base.extend_from_slice(rest);
            while !modules.contains_key(&base) {
                base.pop();
            }
            if !module.starts_with(&base) {
                imports.entry(module.clone()).or_default().insert(base);
            }
        }
    }
    imports
}

/// A way from a module back to itself, if there is one.
fn circle(imports: &Imports) -> Option<Vec<String>> {
    fn visit<'a>(
        imports: &'a Imports,
        at: &'a Module,
        way: &mut Vec<&'a Module>,
        done: &mut BTreeSet<&'a Module>,
    ) -> Option<Vec<String>> {
        if let Some(start) = way.iter().position(|m| *m == at) {
            return Some(way[start..].iter().chain([&at]).map(|m| m.join("::")).collect());
        }
        if done.contains(at) {
            return None;
        }
        way.push(at);
        let found = imports.get(at).into_iter().flatten().find_map(|next| visit(imports, next, way, done));
        way.pop();
        done.insert(at);
        found
    }
    let mut done = BTreeSet::new();
    imports.keys().find_map(|module| visit(imports, module, &mut Vec::new(), &mut done))
}

/// The same imports, of the crate's parts.
fn of_parts(imports: &Imports) -> Imports {
    let mut parts = Imports::new();
    for (from, tos) in imports.iter().filter(|(from, _)| !from.is_empty()) {
        let others = tos.iter().filter(|to| !to.is_empty() && to[0] != from[0]).map(|to| vec![to[0].clone()]);
        parts.entry(vec![from[0].clone()]).or_default().extend(others);
    }
    parts
}

#[test]
fn no_file_and_no_part_of_a_crate_imports_itself_by_a_detour() {
    for package in ["protocol", "node", "cli", "tests"] {
        let imports = imports(&modules(package));
        assert!(
            imports.values().map(BTreeSet::len).sum::<usize>() > 10,
            "{package}: its imports were not read"
        );
        assert_eq!(circle(&imports), None, "{package}: files in a circle");
        assert_eq!(circle(&of_parts(&imports)), None, "{package}: parts in a circle");
    }
}

#[test]
fn the_node_is_built_in_layers() {
    let parts = of_parts(&imports(&modules("node")));
    let floor = |part: &str| NODE.iter().position(|p| *p == part);
    for (from, tos) in &parts {
        let Some(here) = floor(&from[0]) else { continue };
        for to in tos.iter().filter_map(|to| floor(&to[0]).map(|there| (there, to))) {
            assert!(to.0 > here, "{} imports {}, which stands above it", from[0], to.1[0]);
        }
    }
    for part in NODE {
        assert!(modules("node").contains_key(&vec![part.to_owned()]), "no part is called {part}");
    }
}

#[test]
fn a_circle_is_found_whatever_the_imports_look_like() {
    let text = |text: &str| strip(text);
    let module = |path: &str| path.split("::").map(str::to_owned).collect::<Module>();
    let mut modules: BTreeMap<Module, String> = [
        (vec![], text("mod a;\nmod b;\nmod c;")),
        (module("a"), text("mod inner;\nuse crate::{b::{One, Two as Other}, c};\n")),
        (module("a::inner"), text("use super::Face;\nfn f() { super::super::c::call() }")),
        (module("b"), text("// use crate::a::Not;\nuse std::fmt;")),
        (module("c"), text("fn f() {}\n#[cfg(test)]\nmod tests {\n use crate::a::Only;\n}")),
    ]
    .into();
    let found = imports(&modules);
    assert_eq!(found[&module("a")], BTreeSet::from([module("b"), module("c")]));
    assert_eq!(found[&module("a::inner")], BTreeSet::from([module("c")]));
    assert_eq!(circle(&found), None);
    modules.insert(module("c"), text("use super::b::{self, deep::{X}};\nuse crate::a::{\n    inner::Y,\n};"));
    assert_eq!(circle(&imports(&modules)), Some(vec!["c".into(), "a::inner".into(), "c".into()]));
}
