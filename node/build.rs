//! Embeds the browser UI, `frontend/build`, where it was built: a table of files with their
//! compressed forms, which `gateway::assets` serves. Without it the table is empty, and the node shows
//! a plain page: building it needs no Node.js.

use std::fmt::Write as _;
use std::hash::{DefaultHasher, Hasher};
use std::path::{Path, PathBuf};
use std::{env, fs, io};

fn main() -> io::Result<()> {
    let frontend = Path::new(&env::var("CARGO_MANIFEST_DIR").expect("cargo sets it")).join("../frontend");
    let build = frontend.join("build");
    println!("cargo:rerun-if-changed=build.rs");
    // A folder that does not exist yet cannot be watched: the UI's build touches this file at its end.
    let touched = frontend.join("svelte.config.js");
    if touched.exists() {
        println!("cargo:rerun-if-changed={}", touched.display());
    }
    let out = PathBuf::from(env::var("OUT_DIR").expect("cargo sets it"));
    let mut table = String::from("pub(super) static ASSETS: &[Asset] = &[\n");
    match fs::read_to_string(build.join("index.html")) {
        Ok(page) if page.contains("<script>") => {
            println!("cargo:warning=frontend/build is not finished and is left out: run make ui");
        }
        Ok(_) => {
            println!("cargo:rerun-if-changed={}", build.display());
            let mut files = Vec::new();
            walk(&build, &mut files)?;
            files.sort();
            for (number, file) in files.iter().enumerate() {
                entry(&mut table, &build, file, &out.join(format!("asset-{number}")))?;
            }
        }
        Err(_) => {}
    }
    table.push_str("];\n");
    fs::write(out.join("assets.rs"), table)
}

fn walk(folder: &Path, into: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            walk(&path, into)?;
        } else {
            into.push(path);
        }
    }
    Ok(())
}

/// A row of the table; compressed forms are columns of the file they are forms of. The bytes are copied to
/// `copy`: a UI that is built anew while the node compiles would pull them away.
fn entry(table: &mut String, build: &Path, file: &Path, copy: &Path) -> io::Result<()> {
    if file.extension().is_some_and(|extension| extension == "br" || extension == "gz") {
        return Ok(());
    }
    let name = file.strip_prefix(build).expect("it was found there").to_string_lossy().replace('\\', "/");
    let mut hasher = DefaultHasher::new();
    hasher.write(&fs::read(file)?);
    fs::copy(file, copy)?;
    let form = |extension: &str| -> io::Result<String> {
        let form = PathBuf::from(format!("{}.{extension}", file.display()));
        if !form.exists() {
            return Ok("None".to_owned());
        }
        let copy = format!("{}.{extension}", copy.display());
        fs::copy(form, &copy)?;
        Ok(format!("Some(include_bytes!({copy:?}))"))
    };
    writeln!(
        table,
        "    Asset {{ path: {:?}, etag: \"\\\"{:016x}\\\"\", plain: include_bytes!({:?}), brotli: {}, gzip: {} }},",
        format!("/{name}"),
        hasher.finish(),
        copy.display().to_string(),
        form("br")?,
        form("gz")?,
    )
    .expect("a string takes everything");
    Ok(())
}
