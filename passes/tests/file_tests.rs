//! Runs `tests/ir/*.fir`; `FISEC_BLESS=1` rewrites their expectations.

use std::path::Path;

use fisec_ir::Graph;
use fisec_ir::text::filetest::{Executors, run_folder};
use fisec_oracle::compare;
use fisec_passes::canonical::{CANONICAL, NamedPass};
use fisec_passes::fuse;

/// Passes that need nothing but the graph and stand outside the canonical list.
const OTHERS: &[NamedPass] = &[
    ("fuse_conv_prologue", fuse::fuse_conv_prologue),
    ("fuse_conv_epilogue", fuse::fuse_conv_epilogue),
    ("fuse_linear", fuse::fuse_linear),
    ("fold_upsample", fuse::fold_upsample),
    ("sink_views", fuse::sink_views),
];

fn run_pass(name: &str, graph: &mut Graph) -> Result<(), String> {
    let known = CANONICAL.iter().chain(OTHERS).find(|(known, _)| *known == name);
    let (_, pass) = known.ok_or_else(|| "there is no such pass".to_owned())?;
    pass(graph).map(drop).map_err(|error| error.to_string())
}

#[test]
fn files_meet_their_expectations() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/ir");
    let executors = Executors {
        pass: &run_pass,
        oracle: Some(&compare),
    };
    let (count, failed) = run_folder(&folder, executors).unwrap_or_else(|error| panic!("{error}"));
    let failed: Vec<String> = failed
        .iter()
        .map(|(path, error)| format!("{}: {error}", path.display()))
        .collect();
    assert!(failed.is_empty(), "{}", failed.join("\n\n"));
    assert!(count >= 8, "the tests are there: {count}");
}
