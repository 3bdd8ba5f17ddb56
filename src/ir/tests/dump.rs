//! Dumps say what is in the graph, and survive odd names.

use fisec_ir::dump::{Details, Dump, dot, html, json, svg};
use fisec_ir::text::{is_visible, parse, print};

const SOURCE: &str = r#"graph "edit <1>"
slots {
  s0 "conv/1" : f16[2,8,4,4] level 0
}
weights {
  @w : f16[8,4,3,3]
}
%0 = input "sample" : f16[2,4,4,4]
%1 = conv %0, @w, kernel=3x3 pad=1 : f16[2,8,4,4]@a0 ; names "/down/conv \"1\"</script>{{data}}/Conv", pass "mark_sparse", reason "5 % active"
%2 = cache.read s0 : f16[2,8,4,4]
%3 = scatter %1, %2, full : f16[2,8,4,4]
%4, %5 = onnx Split %3, _, opset=17 : f16[1], f16[1]
output %5, "out"
"#;

#[test]
fn json_has_every_field() {
    let graph = parse(SOURCE).unwrap();
    let value = Dump::new(&graph)
        .details(|id| match graph.op(id).name() {
            "conv" => Details {
                macs: Some(9216),
                predicted_macs: Some(460),
                notes: vec!["2x2: 1.5 us".to_owned()],
            },
            _ => Details::default(),
        })
        .json();
    assert_eq!(
        (value["format"].as_str(), value["version"].as_u64()),
        (Some("fisec-graph"), Some(1))
    );
    assert_eq!(value["name"], "edit <1>");
    assert_eq!(value["weights"][0]["bytes"], 8 * 4 * 9 * 2);
    assert_eq!(value["slots"][0]["level"], 0);
    let conv = &value["nodes"][1];
    assert_eq!(conv["op"], "conv");
    assert_eq!(conv["operands"], serde_json::json!([{"value": 0}, {"weight": "w"}]));
    assert_eq!(
        conv["outputs"],
        serde_json::json!([{"value": 1, "dtype": "f16", "shape": [2, 8, 4, 4], "active": 0, "ring": 0, "bytes": 512}])
    );
    assert_eq!(conv["origin"]["reason"], "5 % active");
    assert_eq!(
        (conv["macs"].as_u64(), conv["predicted_macs"].as_u64()),
        (Some(9216), Some(460))
    );
    assert_eq!(conv["notes"][0], "2x2: 1.5 us");
    assert_eq!(value["nodes"][2]["slot"], 0);
    assert_eq!(value["nodes"][4]["onnx"]["type"], "Split");
    assert_eq!(value["nodes"][4]["operands"][1], serde_json::Value::Null);
    assert_eq!(value["nodes"].as_array().unwrap().len(), 6);
    assert!(json(&graph)["nodes"][1].get("macs").is_none());
}

#[test]
fn dot_draws_nodes_and_edges() {
    let graph = parse(SOURCE).unwrap();
    let text = dot(&graph);
    assert_eq!(text.matches("fillcolor").count(), graph.len());
    assert_eq!(text.matches(" -> ").count(), 5);
    // the active value is drawn in red, at its node and on its edge
    assert_eq!(text.matches("#c2273d").count(), 2);
    assert!(text.contains(r#"conv \\\"1\\\"</script>"#), "quotes are escaped");
}

#[test]
fn drawings_are_well_formed() {
    let graph = parse(SOURCE).unwrap();
    let drawing = svg(&graph);
    assert_eq!(drawing.matches("<g class=\"node").count(), graph.len());
    assert_eq!(drawing.matches("<path").count(), 5);
    assert_eq!(drawing.matches(" sparse\"").count(), 1);
    assert!(!drawing.contains("</script>"));
    let tags = |open: &str, close: &str| (drawing.matches(open).count(), drawing.matches(close).count());
    for (open, close) in [tags("<g ", "</g>"), tags("<text", "</text>"), tags("<svg", "</svg>")] {
        assert_eq!(open, close);
    }
}

#[test]
fn the_page_stands_alone() {
    let page = html(&parse(SOURCE).unwrap());
    assert_eq!(page.matches("</script>").count(), 2, "names do not end the data");
    assert!(!page.contains("http"), "nothing is loaded from anywhere");
    let start = page.find("application/json\">").unwrap() + "application/json\">".len();
    let data = &page[start..start + page[start..].find("</script>").unwrap()];
    let data: serde_json::Value = serde_json::from_str(data).unwrap();
    assert_eq!(data["nodes"].as_array().unwrap().len(), 6);
    assert!(
        data["nodes"][1]["origin"]["names"][0]
            .as_str()
            .unwrap()
            .contains("{{data}}")
    );
}

#[test]
fn an_empty_graph_has_dumps_too() {
    let graph = fisec_ir::Graph::new("nothing");
    assert!(svg(&graph).ends_with("</svg>\n"));
    assert!(html(&graph).contains("nothing"));
}

/// Names come from models: no dump holds a character that a terminal or a browser obeys.
#[test]
fn every_character_of_a_dump_is_visible() {
    let hostile = r#"graph "g\u{1b}[2J"
%0 = input "sample\u{202e}\n" : f16[2,4,4,4]
%1 = onnx "Od\u{9b}d'" %0, opset=17 : f16[1] ; names "a\u{7}\nb\u{2066}"
output %1, "out\u{fffe}"
"#;
    let graph = parse(hostile).unwrap();
    let html = html(&graph);
    let (data, page): (Vec<&str>, Vec<&str>) = html.lines().partition(|line| line.contains("fisec-graph"));
    let drawn = [dot(&graph), svg(&graph), print(&graph), page.concat()];
    for text in &drawn {
        let hidden = text.chars().find(|letter| !is_visible(*letter) && *letter != '\n');
        assert_eq!(hidden, None, "{text}");
    }
    assert!(
        drawn[0].contains(r"\\u{1b}") && drawn[1].contains(r"\u{9b}d&#39;"),
        "{drawn:?}"
    );
    assert!(data.concat().chars().all(is_visible));
    assert_eq!(parse(&drawn[2]).map(|again| print(&again)), Ok(drawn[2].clone()));
}
