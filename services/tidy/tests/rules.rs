//! The repository's rules about files, functions, layers and invariants.

use std::collections::{BTreeMap, BTreeSet};

use tidy::{functions, metadata, root, rust_sources};

const FILE_LINES_MAX: usize = 600;
const FUNCTION_LINES_MAX: usize = 70;

/// Lines of `allow.txt`: `path[:function]  reason`.
fn allowed() -> BTreeMap<String, String> {
    let text = std::fs::read_to_string(root().join("services/tidy/allow.txt")).expect("allow.txt");
    let mut entries = BTreeMap::new();
    for line in text
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
    {
        let (place, reason) = line
            .split_once("  ")
            .unwrap_or_else(|| panic!("allow.txt: no reason in {line:?}"));
        assert!(
            reason.trim().len() > 10,
            "allow.txt: a reason says why: {line:?}"
        );
        entries.insert(place.to_string(), reason.trim().to_string());
    }
    entries
}

#[test]
fn files_and_functions_fit_in_the_head() {
    let allowed = allowed();
    let mut used = BTreeSet::new();
    let mut found = Vec::new();
    let mut check = |place: String, lines: usize, max: usize| {
        if lines > max {
            match allowed.contains_key(&place) {
                true => drop(used.insert(place)),
                false => found.push(format!("{place}: {lines} lines, more than {max}")),
            }
        }
    };
    for source in rust_sources() {
        check(
            source.path.clone(),
            source.text.lines().count(),
            FILE_LINES_MAX,
        );
        for function in functions(&source.text) {
            check(
                format!("{}:{}", source.path, function.name),
                function.lines,
                FUNCTION_LINES_MAX,
            );
        }
    }
    for place in allowed.keys().filter(|place| !used.contains(*place)) {
        found.push(format!(
            "{place}: in allow.txt, but within bounds: remove the line"
        ));
    }
    assert!(
        found.is_empty(),
        "split these, or give a reason in services/tidy/allow.txt:\n{}",
        found.join("\n")
    );
}

#[test]
fn nothing_is_left_over() {
    let words = [
        concat!("to", "do!("),
        concat!("unimple", "mented!("),
        concat!("db", "g!("),
        concat!("FIX", "ME"),
    ];
    let mut found = Vec::new();
    for source in rust_sources() {
        for (number, line) in source.text.lines().enumerate() {
            if let Some(word) = words.iter().find(|word| line.contains(**word)) {
                found.push(format!("{}:{}: {word}", source.path, number + 1));
            }
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn every_source_file_is_compiled() {
    let sources = rust_sources();
    let mut found = Vec::new();
    for source in &sources {
        let path = std::path::Path::new(&source.path);
        let (Some(stem), Some(folder)) = (path.file_stem(), path.parent()) else {
            continue;
        };
        let (stem, folder) = (
            stem.to_string_lossy().into_owned(),
            folder.to_string_lossy().into_owned(),
        );
        let target = ["tests", "benches", "examples"]
            .iter()
            .any(|kind| folder.ends_with(kind));
        if target || ["lib", "main", "mod", "build"].contains(&stem.as_str()) {
            continue;
        }
        let parents = [
            format!("{folder}/mod.rs"),
            format!("{folder}/lib.rs"),
            format!("{folder}/main.rs"),
            format!("{folder}.rs"),
        ];
        let declared = sources
            .iter()
            .filter(|s| parents.contains(&s.path))
            .any(|s| s.text.contains(&format!("mod {stem};")));
        if !declared && !folder.contains("/tests/") {
            found.push(source.path.clone());
        }
    }
    assert!(
        found.is_empty(),
        "files that no module declares:\n{}",
        found.join("\n")
    );
}

#[test]
fn one_file_calls_the_raw_node() {
    let callers: Vec<String> = rust_sources()
        .into_iter()
        .filter(|source| {
            source.path.starts_with("kernel-db/src") && source.text.contains("RawNode::new")
        })
        .map(|source| source.path)
        .collect();
    assert_eq!(
        callers.len(),
        1,
        "exactly one file drives raft-rs's RawNode: {callers:?}"
    );
}

#[test]
fn state_machines_name_no_outside_world() {
    let outside = [
        "std::time",
        "std::thread",
        "std::net",
        "std::fs",
        "std::io",
        "tokio",
        "rand::",
        "Instant",
        "SystemTime",
        "crossbeam",
    ];
    let mut found = Vec::new();
    for source in rust_sources() {
        let inside = ["raft", "partition", "txn"]
            .iter()
            .any(|part| source.path.starts_with(&format!("kernel-db/src/{part}/")));
        if !inside {
            continue;
        }
        let code = source.text.split("#[cfg(test)]").next().unwrap_or("");
        for (number, line) in code
            .lines()
            .enumerate()
            .filter(|(_, line)| !line.trim_start().starts_with("//"))
        {
            if let Some(word) = outside.iter().find(|word| line.contains(**word)) {
                found.push(format!("{}:{}: {word}", source.path, number + 1));
            }
        }
    }
    assert!(
        found.is_empty(),
        "raft/, partition/ and txn/ get time, chance and bytes from outside:\n{}",
        found.join("\n")
    );
}

#[test]
fn every_invariant_is_named_where_it_is_kept() {
    let sources = rust_sources();
    let missing: Vec<String> = (1..=13)
        .map(|number| format!("I{number}"))
        .filter(|name| {
            let named = |text: &str| {
                text.lines()
                    .any(|line| line.contains("//") && word(line, name))
            };
            !sources
                .iter()
                .any(|s| s.path.starts_with("kernel-db/src") && named(&s.text))
        })
        .collect();
    assert!(
        missing.is_empty(),
        "no comment in kernel-db/src names {missing:?}"
    );
}

fn word(line: &str, name: &str) -> bool {
    line.match_indices(name)
        .any(|(at, _)| !line[at + name.len()..].starts_with(|c: char| c.is_ascii_digit()))
}

#[test]
fn services_depend_on_the_client_and_never_on_the_kernel() {
    let metadata = metadata();
    let graph = dependency_graph(&metadata);
    for service in ["scheduler", "dbfs", "ipc"] {
        let reach = reachable(&graph, service);
        assert!(
            reach.contains("dbos-client"),
            "{service} does not use dbos-client"
        );
        assert!(
            !reach.contains("kernel-db"),
            "{service} depends on kernel-db"
        );
    }
    let kernel = reachable(&graph, "kernel-db");
    for service in ["scheduler", "dbfs", "ipc", "dbos-client", "dbos", "bench"] {
        assert!(!kernel.contains(service), "kernel-db depends on {service}");
    }
}

/// Normal (not dev, not build) dependencies between packages, by name.
fn dependency_graph(metadata: &serde_json::Value) -> BTreeMap<String, Vec<String>> {
    let mut graph = BTreeMap::new();
    for package in metadata["packages"].as_array().expect("packages") {
        let name = package["name"].as_str().expect("a name").to_string();
        let dependencies = package["dependencies"].as_array().expect("dependencies");
        let normal = dependencies.iter().filter(|d| d["kind"].is_null());
        graph.insert(
            name,
            normal
                .map(|d| d["name"].as_str().expect("a name").to_string())
                .collect(),
        );
    }
    graph
}

fn reachable(graph: &BTreeMap<String, Vec<String>>, from: &str) -> BTreeSet<String> {
    let mut seen = BTreeSet::new();
    let mut next = vec![from.to_string()];
    while let Some(name) = next.pop() {
        for dependency in graph.get(&name).into_iter().flatten() {
            if seen.insert(dependency.clone()) {
                next.push(dependency.clone());
            }
        }
    }
    seen
}
