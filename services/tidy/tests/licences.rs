//! Every dependency has a free licence and comes from the registry.

use tidy::metadata;

/// SPDX names of licences that allow what Apache-2.0 software needs.
const FREE: [&str; 13] = [
    "MIT",
    "Apache-2.0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "ISC",
    "Zlib",
    "0BSD",
    "Unlicense",
    "Unicode-3.0",
    "CC0-1.0",
    "BSL-1.0",
    "MPL-2.0",
    "CDLA-Permissive-2.0",
];

/// True if the SPDX expression can be satisfied with free licences: one side of an OR, both sides of an AND.
fn is_free(expression: &str) -> bool {
    let expression = expression.replace('/', " OR ").replace(['(', ')'], " ");
    expression.split(" AND ").all(|part| {
        part.split(" OR ").any(|licence| {
            let name = licence.trim().split(" WITH ").next().unwrap_or("").trim();
            FREE.contains(&name)
        })
    })
}

#[test]
fn every_licence_is_free() {
    let metadata = metadata();
    let mut found = Vec::new();
    for package in metadata["packages"].as_array().expect("packages") {
        let licence = package["license"].as_str().unwrap_or("");
        if !is_free(licence) {
            found.push(format!(
                "{} {}: {licence:?}",
                package["name"], package["version"]
            ));
        }
    }
    assert!(
        found.is_empty(),
        "licences that are not on the list:\n{}",
        found.join("\n")
    );
}

#[test]
fn every_source_is_the_registry_or_this_workspace() {
    let metadata = metadata();
    let mut found = Vec::new();
    for package in metadata["packages"].as_array().expect("packages") {
        let source = package["source"].as_str().unwrap_or("");
        if !source.is_empty()
            && !source.starts_with("registry+https://github.com/rust-lang/crates.io-index")
        {
            found.push(format!("{} from {source}", package["name"]));
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn expressions_are_read() {
    assert!(is_free("MIT OR Apache-2.0") && is_free("MIT/Apache-2.0") && is_free("GPL-3.0 OR MIT"));
    assert!(!is_free("GPL-3.0") && !is_free("MIT AND GPL-2.0") && !is_free(""));
}
