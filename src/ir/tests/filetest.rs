//! The file test harness: passes, expectations, blessing.

use fisec_ir::text::filetest::{Executors, FileTestError, bless, check, run_folder};
use fisec_ir::{Graph, Op};

const TEST: &str = r#"# an upsampling is not needed at its own size
test passes
passes: drop_upsample

graph g

%x = input "x" : f32[1,2,4,4]
%u = upsample %x, size=4x4 : f32[1,2,4,4]
output %u, "y"

expect:

graph g

%0 = input "x" : f32[1,2,4,4]
output %0, "y"
"#;

fn drop_upsample(name: &str, _: &[String], graph: &mut Graph) -> Result<(), String> {
    if name != "drop_upsample" {
        return Err(format!("unknown pass `{name}`"));
    }
    for id in graph.ids() {
        if matches!(graph.op(id), Op::Upsample { .. }) {
            let operand = graph.operands(id)[0];
            graph.replace_uses(fisec_ir::ValueId { node: id, output: 0 }, operand);
            graph.remove(id);
        }
    }
    Ok(())
}

fn executors() -> Executors<'static> {
    Executors {
        pass: &drop_upsample,
        oracle: None,
    }
}

#[test]
fn a_met_expectation_passes_and_blessing_keeps_it() {
    check(TEST, executors()).unwrap();
    let blessed = bless(TEST, executors()).unwrap();
    assert_eq!(blessed, TEST);
}

#[test]
fn another_result_is_shown_line_by_line_and_can_be_blessed() {
    let wrong = TEST.replace("output %0, \"y\"\n", "output %0, \"z\"\n");
    let message = check(&wrong, executors()).unwrap_err().to_string();
    assert!(message.contains("- output %0, \"z\"\n+ output %0, \"y\""), "{message}");
    assert!(!message.contains("input"), "equal lines are left out: {message}");
    assert_eq!(bless(&wrong, executors()).unwrap(), TEST);
}

#[test]
fn wrong_tests_say_what_is_wrong() {
    let cases = [
        (
            TEST.replace("passes: drop_upsample", "passes: fly"),
            "pass `fly`: unknown pass `fly`",
        ),
        (
            TEST.replace("test passes", "test speed"),
            "line 2: unknown directive `test speed`",
        ),
        (TEST.replace("test passes\n", ""), "line 1: the file asks for no test"),
        (
            TEST.replace("test passes", "test oracle tol=1e-9"),
            "oracle: there is none here",
        ),
        (
            TEST.replace("test passes", "test oracle"),
            "line 2: unknown directive `test oracle`",
        ),
        (
            TEST.replace("size=4x4 :", "size=5x4 :"),
            "input: the result is f32[1,2,5,4]\n",
        ),
        (
            TEST.replace("= upsample", "= upsampel"),
            "input: 4:6: `upsampel`: unknown operator",
        ),
    ];
    for (source, message) in cases {
        let error = check(&source, executors()).unwrap_err().to_string();
        assert!(error.starts_with(message), "{error}");
    }
}

#[test]
fn the_oracle_judges_input_and_result() {
    let source = TEST.replace("test passes", "test oracle tol=1e-9 ; a reason");
    let compare = |before: &Graph, after: &Graph, tolerance: f64| {
        assert_eq!((before.len(), after.len(), tolerance), (3, 2, 1e-9));
        Err("they differ".to_owned())
    };
    let error = check(
        &source,
        Executors {
            oracle: Some(&compare),
            ..executors()
        },
    )
    .unwrap_err();
    assert!(matches!(error, FileTestError::Oracle(message) if message == "they differ"));
}

#[test]
fn options_reach_the_passes() {
    let source = TEST.replace(
        "test passes\n",
        "test passes\noptions: sparse_levels=1 keys=full ; for people\n",
    );
    let pass = |name: &str, options: &[String], graph: &mut Graph| {
        assert_eq!(options, ["sparse_levels=1", "keys=full"]);
        drop_upsample(name, options, graph)
    };
    let executors = Executors {
        pass: &pass,
        ..executors()
    };
    check(&source, executors).unwrap();
    assert_eq!(bless(&source, executors).unwrap(), source);
}

#[test]
fn folders_run_in_order_and_count() {
    let folder = std::env::temp_dir().join(format!("fisec-filetest-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("a.fir"), TEST).unwrap();
    std::fs::write(folder.join("b.fir"), TEST.replace("drop_upsample", "fly")).unwrap();
    std::fs::write(folder.join("notes.txt"), "no test").unwrap();
    let (count, failed) = run_folder(&folder, executors()).unwrap();
    std::fs::remove_dir_all(&folder).unwrap();
    assert_eq!(count, 2);
    assert_eq!(failed.len(), 1);
    assert!(failed[0].0.ends_with("b.fir"));
}
