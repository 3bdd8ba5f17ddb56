//! Checks the direction of every arrow between the project's crates.

use serde_json::Value;

use crate::Failure;
use crate::shell::{cargo, output};

/// Who may depend on whom. Everything else is a reversed arrow or a shortcut. See ARCHITECTURE.md.
const ALLOWED: &[(&str, &[&str])] = &[
    ("fisec-files", &[]),
    ("fisec-tensor", &[]),
    ("fisec-ir", &["fisec-tensor"]),
    ("fisec-onnx", &["fisec-files", "fisec-tensor", "fisec-ir"]),
    ("fisec-oracle", &["fisec-tensor", "fisec-ir"]),
    (
        "fisec-passes",
        &["fisec-tensor", "fisec-ir", "fisec-onnx", "fisec-plan"],
    ),
    ("fisec-plan", &["fisec-files", "fisec-tensor"]),
    ("fisec-kernels", &["fisec-tensor"]),
    (
        "fisec-runtime",
        &["fisec-files", "fisec-tensor", "fisec-plan", "fisec-kernels"],
    ),
    (
        "fisec-diffusion",
        &["fisec-files", "fisec-tensor", "fisec-plan", "fisec-runtime"],
    ),
    (
        "fisec",
        &[
            "fisec-files",
            "fisec-tensor",
            "fisec-ir",
            "fisec-onnx",
            "fisec-oracle",
            "fisec-passes",
            "fisec-plan",
            "fisec-runtime",
            "fisec-diffusion",
        ],
    ),
    ("xtask", &[]),
];

/// Fails when a crate of the workspace depends on one that it must not know.
pub fn run() -> Result<(), Failure> {
    let metadata = output(cargo().args(["metadata", "--no-deps", "--format-version", "1"]))?;
    let metadata: Value = serde_json::from_str(&metadata).map_err(|error| format!("cargo metadata: {error}"))?;
    let wrong = wrong_arrows(&metadata, ALLOWED);
    if wrong.is_empty() {
        return Ok(());
    }
    Err(format!(
        "{}\n\nhint: ARCHITECTURE.md says what each crate may know; the table is in tools/xtask/arrows.rs",
        wrong.join("\n")
    ))
}

/// Tests may look further than the code that they test, so dev-dependencies do not count.
fn wrong_arrows(metadata: &Value, allowed: &[(&str, &[&str])]) -> Vec<String> {
    let packages = list(metadata, "packages");
    let ours: Vec<&str> = packages.iter().map(|package| text(package, "name")).collect();
    let mut wrong = Vec::new();
    for package in packages {
        let name = text(package, "name");
        let Some((_, may_know)) = allowed.iter().find(|(known, _)| *known == name) else {
            wrong.push(format!("crate `{name}` is not in the table of allowed dependencies"));
            continue;
        };
        for dependency in list(package, "dependencies") {
            let target = text(dependency, "name");
            let is_ours = ours.contains(&target) && text(dependency, "kind") != "dev";
            if is_ours && !may_know.contains(&target) {
                wrong.push(format!("crate `{name}` must not depend on `{target}`"));
            }
        }
    }
    wrong
}

fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_array().map_or(&[], Vec::as_slice)
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workspace(kind: Value) -> Value {
        serde_json::json!({ "packages": [
            { "name": "fisec-plan", "dependencies": [{ "name": "serde", "kind": null }] },
            { "name": "fisec-runtime", "dependencies": [{ "name": "fisec-plan", "kind": null }] },
            { "name": "fisec-ir", "dependencies": [{ "name": "fisec-runtime", "kind": kind }] },
        ]})
    }

    #[test]
    fn a_reversed_arrow_is_found() {
        let wrong = wrong_arrows(&workspace(Value::Null), ALLOWED);
        assert_eq!(wrong, ["crate `fisec-ir` must not depend on `fisec-runtime`"]);
    }

    #[test]
    fn a_build_dependency_is_an_arrow_and_a_test_dependency_is_not() {
        assert_eq!(wrong_arrows(&workspace("build".into()), ALLOWED).len(), 1);
        assert!(wrong_arrows(&workspace("dev".into()), ALLOWED).is_empty());
    }

    #[test]
    fn a_crate_that_the_table_does_not_know_is_found() {
        let wrong = wrong_arrows(&workspace("dev".into()), &ALLOWED[..5]);
        assert_eq!(wrong.len(), 2, "{wrong:?}");
    }

    #[test]
    fn the_allowed_arrows_form_no_circle() {
        let mut known: Vec<&str> = Vec::new();
        let mut left: Vec<_> = ALLOWED.to_vec();
        while !left.is_empty() {
            let before = left.len();
            left.retain(|(name, needs)| {
                let is_ready = needs.iter().all(|need| known.contains(need));
                known.extend(is_ready.then_some(*name));
                !is_ready
            });
            assert!(left.len() < before, "a circle among {left:?}");
        }
    }
}
