//! `docs/standards.md` says where each standard is and which test shows it; this holds it to its word.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// `| RFC 5321 | title | src/a, src/b | test, test |`
struct Row {
    rfc: String,
    modules: Vec<String>,
    tests: Vec<String>,
}

fn rows() -> Vec<Row> {
    let page = fs::read_to_string("docs/standards.md").unwrap();
    let cells = |line: &str| line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect::<Vec<_>>();
    let list = |cell: &str| cell.split(',').map(|word| word.trim().trim_matches('`').to_owned()).filter(|word| !word.is_empty()).collect();
    page.lines()
        .filter(|line| line.starts_with("| RFC "))
        .map(|line| match cells(line).as_slice() {
            [rfc, _, modules, tests] => Row { rfc: rfc.clone(), modules: list(modules), tests: list(tests) },
            other => panic!("a row has four cells: {other:?}"),
        })
        .collect()
}

fn sources(root: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![PathBuf::from(root)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if entry.is_dir() {
                folders.push(entry);
            } else if entry.extension().is_some_and(|extension| extension == "rs" || extension == "py") {
                found.push(entry);
            }
        }
    }
    found
}

fn cited(text: &str) -> BTreeSet<String> {
    let digits = |rest: &str| rest.chars().take_while(char::is_ascii_digit).collect::<String>();
    text.match_indices("RFC ").map(|(at, _)| format!("RFC {}", digits(&text[at + 4..]))).filter(|rfc| rfc.len() > 4).collect()
}

#[test]
fn every_standard_that_the_code_cites_has_a_row() {
    let listed: BTreeSet<_> = rows().into_iter().map(|row| row.rfc).collect();
    let missing: BTreeSet<_> =
        sources("src").iter().flat_map(|file| cited(&fs::read_to_string(file).unwrap())).filter(|rfc| !listed.contains(rfc)).collect();

    assert!(missing.is_empty(), "cited in src and not in docs/standards.md: {missing:?}");
}

#[test]
fn every_row_names_modules_and_tests_that_exist() {
    let all: Vec<_> = ["src", "tests"].iter().flat_map(|root| sources(root)).map(|file| fs::read_to_string(file).unwrap()).collect();
    for row in rows() {
        assert!(!row.modules.is_empty() && !row.tests.is_empty(), "{}: no cell may be empty", row.rfc);
        for module in &row.modules {
            assert!(Path::new(module).exists(), "{}: there is no {module}", row.rfc);
        }
        for test in &row.tests {
            let is_dialog = Path::new("tests/dialogs").join(test).with_extension("txt").exists();
            let is_function = all.iter().any(|text| text.contains(&format!("fn {test}(")) || text.contains(&format!("def {test}(")));
            assert!(is_dialog || is_function, "{}: there is no test {test}", row.rfc);
        }
    }
}
