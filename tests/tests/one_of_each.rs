//! Every decision is made by one type of `kepler_protocol`: neither the node nor the simulator has
//! its own, and both construct the same.

use std::fs;
use std::path::{Path, PathBuf};

/// The machines, the module each comes from, and how one is made or asked.
const MACHINES: [(&str, &str, &[&str]); 10] = [
    ("Swim", "swim", &["Swim::new("]),
    ("Council", "council", &["Council::open(", "Council::open_with_faults("]),
    ("Catalog", "catalog", &["Catalog::open("]),
    ("Placement", "quorum", &["Placement::new(", "Placement::with_faults("]),
    ("Replica", "replica", &["Replica::open("]),
    ("Replicator", "replicator", &["Replicator::new("]),
    // The node's own of this name has tasks wait for what the machine, its `Machine`, lets through.
    ("Throttle", "throttle", &["Machine::new(", "{ Throttle::new }("]),
    ("Chunker", "chunker", &["Chunker::new("]),
    ("Relocation", "relocation", &["Relocation::new("]),
    // A function judges: the facts that it takes stand for it.
    ("Facts", "health", &["health::judge("]),
];

/// Those that the simulator does not run: nothing in it cuts bytes, or is asked how healthy the cluster is.
const NOT_SIMULATED: [&str; 2] = ["Chunker", "Facts"];

/// Other names of decisions that nobody may define again.
const DECISIONS: [&str; 10] = [
    "Ring",
    "Roster",
    "SeenSet",
    "Dot",
    "Origin",
    "Stamp",
    "Acceptor",
    "Proposer",
    "Suspicion",
    "Electorate",
];

fn sources(folder: &Path, into: &mut Vec<(PathBuf, String)>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    let mut paths: Vec<PathBuf> = entries.filter_map(|entry| entry.ok().map(|e| e.path())).collect();
    paths.sort();
    for path in paths {
        if path.is_dir() {
            sources(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).expect("a source file is readable");
            into.push((path, text));
        }
    }
}

fn of(crate_folder: &str) -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_path_buf();
    let mut found = Vec::new();
    sources(&root.join(crate_folder).join("src"), &mut found);
    assert!(!found.is_empty(), "no sources under {crate_folder}");
    found
}

/// Whether a line of `text` defines a type called `name`.
fn defines(text: &str, name: &str) -> bool {
    text.lines().filter(|line| !line.trim_start().starts_with("//")).any(|line| {
        let mut words = line.split(|c: char| !(c.is_alphanumeric() || c == '_')).filter(|w| !w.is_empty());
        let is_definition = words.by_ref().any(|word| matches!(word, "struct" | "enum" | "trait" | "union"));
        is_definition && words.next() == Some(name)
    })
}

/// Whether `text` takes the machine under another name, to wrap it in something of the machine's.
fn wraps(text: &str, name: &str) -> bool {
    MACHINES.iter().any(|(machine, module, _)| {
        *machine == name && text.contains(&format!("kepler_protocol::{module}::{name} as Machine;"))
    })
}

#[test]
fn a_definition_is_told_from_a_mention() {
    assert!(defines("pub(crate) struct Swim<T> {", "Swim"));
    assert!(defines("enum Ring{", "Ring"));
    assert!(!defines("struct SwimHandle;", "Swim"));
    assert!(!defines("/// A struct Swim of its own", "Swim"));
    assert!(!defines("impl Swim {", "Swim"));
}

#[test]
fn neither_the_node_nor_the_simulator_has_a_decision_type_of_its_own() {
    for folder in ["node", "tests"] {
        for (path, text) in of(folder) {
            for name in MACHINES.iter().map(|(name, ..)| name).chain(&DECISIONS) {
                let own = defines(&text, name) && !wraps(&text, name);
                assert!(!own, "{} defines its own {name}", path.display());
            }
        }
    }
}

#[test]
fn the_simulator_constructs_the_machines_of_the_protocol() {
    constructs("tests");
}

#[test]
fn the_node_constructs_the_machines_of_the_protocol() {
    constructs("node");
}

fn constructs(folder: &str) {
    let sources = of(folder);
    for (name, module, makers) in MACHINES {
        if folder == "tests" && NOT_SIMULATED.contains(&name) {
            continue;
        }
        let made = sources.iter().find(|(_, text)| makers.iter().any(|maker| text.contains(maker)));
        // The composite of council and catalog makes both.
        let composite = ["Council", "Catalog"].contains(&name)
            && sources.iter().any(|(_, text)| text.contains("Replica::open"));
        assert!(made.is_some() || composite, "{folder} constructs no {name}");
        if let Some((path, text)) = made {
            let imported = text.contains("kepler_protocol") && text.contains(module);
            assert!(imported, "{} does not take {name} from kepler_protocol", path.display());
        }
    }
}
