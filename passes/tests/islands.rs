//! Islands of one name, of several programs.

use fisec_ir::text::parse;
use fisec_onnx::Ports;
use fisec_passes::Budget;
use fisec_passes::lower::{PlanBuilder, WeightTarget};
use fisec_plan::{BundleWriter, Island};

fn described(name: &str) -> Island {
    Island {
        file: format!("{name}.onnx"),
        name: name.to_owned(),
        inputs: Vec::new(),
        outputs: Vec::new(),
        nodes: Vec::new(),
        macs: 0,
    }
}

/// The prompt's islands of two programs may differ, e.g. in the order of their outputs; each keeps its own file.
#[test]
fn islands_of_one_name_do_not_overwrite_each_other() {
    let graph = |outputs: [&str; 2]| {
        let [first, second] = outputs;
        let text = format!(
            "graph prompt\n%x = input \"i0\" : f32[2,3]\n%a = onnx Tanh %x, opset=17 : f32[2,3]\n\
             %b = onnx Sigmoid %x, opset=17 : f32[2,3]\noutput {first}, \"o0\"\noutput {second}, \"o1\"\n"
        );
        parse(&text).expect("a graph")
    };
    let (one, other) = (graph(["%a", "%b"]), graph(["%b", "%a"]));
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut writer = BundleWriter::create(&folder.path().join("plan")).expect("a new folder");
    let place = writer.folder().to_owned();
    let mut builder = PlanBuilder::new(&mut writer, WeightTarget::Cpu, Budget::of([&one, &other]));
    let mut add = |graph| {
        builder
            .island(graph, Ports::Plain, described("prompt"))
            .expect("written")
    };
    let ids = [add(&one), add(&other), add(&one)];
    assert_eq!(ids[0], ids[2], "an equal island is used again");
    let islands = builder.into_islands();
    let files: Vec<Vec<u8>> = islands
        .iter()
        .map(|island| std::fs::read(place.join(&island.file)).expect("written"))
        .collect();
    let [first, second] = &files[..] else {
        panic!("two islands, not {}", files.len())
    };
    assert_ne!(first, second);
    assert_eq!(
        (islands[0].name.as_str(), islands[1].name.as_str()),
        ("prompt", "prompt-2")
    );
}
