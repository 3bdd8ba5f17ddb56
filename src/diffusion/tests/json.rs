//! JSON as Python writes it.

use fisec_diffusion::json::Json;
use proptest::prelude::*;

#[test]
fn python_writes_numbers_that_json_does_not_have() {
    let json =
        Json::parse(r#"{"a": -Infinity, "b": [Infinity, NaN], "c": 1e30, "d": -0.5E-3, "e": 1.0, "f": "12"}"#).unwrap();
    assert_eq!(json.get("a").as_f64(), Some(f64::NEG_INFINITY));
    assert_eq!(json.get("b").items()[0].as_f64(), Some(f64::INFINITY));
    assert!(json.get("b").items()[1].as_f64().unwrap().is_nan());
    assert_eq!(json.get("c").as_f64(), Some(1e30));
    assert_eq!(json.get("c").as_i64(), None);
    assert_eq!(json.get("d").as_f64(), Some(-0.0005));
    assert_eq!(json.get("e").as_usize(), Some(1));
    assert_eq!(json.get("f").as_usize(), Some(12));
    assert_eq!(json.get("a").to_string(), "-Infinity");
    assert!(json.get("nothing").is_null() && json.find("nothing").is_none());
}

#[test]
fn what_python_reads_is_read() {
    let huge = format!("1{}", "0".repeat(30));
    let texts = [
        ("\u{feff} null ", Json::Null),
        (
            r#""\ud83d\ude00 \ud83d \u00e9 \/""#,
            Json::Text("😀 \u{fffd} é /".into()),
        ),
        (r#"{"a": 1, "a": 2}"#, Json::parse(r#"{"a": 1, "a": 2}"#).unwrap()),
        (&huge, Json::Number(1e30)),
        ("[]", Json::List(vec![])),
        ("[[], {}]", Json::List(vec![Json::List(vec![]), Json::Map(vec![])])),
    ];
    for (text, expected) in texts {
        assert_eq!(Json::parse(text).unwrap(), expected, "{text}");
    }
    assert_eq!(Json::parse(r#"{"a": 1, "a": 2}"#).unwrap().get("a").as_i64(), Some(2));
}

#[test]
fn what_is_no_json_is_refused_with_its_place() {
    let deep = "[".repeat(100_000);
    let texts = [
        "",
        " ",
        "{",
        "[1",
        "[1,]",
        "{\"a\"}",
        "{\"a\" 1}",
        "{a: 1}",
        "nul",
        "01",
        "1.",
        ".5",
        "+1",
        "--1",
        "\"a",
        "\"\\x\"",
        "\"\\u12\"",
        "\"a\nb\"",
        "1 2",
        "infinity",
        "[1 2]",
        "{\"a\": 1,}",
        "\\",
        "\"\\",
        &deep,
    ];
    for text in texts {
        let error = Json::parse(text).expect_err(text).to_string();
        assert!(error.contains("line ") && error.contains("column "), "{error}");
    }
    let error = Json::parse("{\n  \"é\": 1,\n  \"b\": x}").unwrap_err().to_string();
    assert!(error.contains("'x' at line 3 column 8"), "{error}");
}

fn value() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(serde_json::Value::from),
        (-(1i64 << 53)..1 << 53).prop_map(serde_json::Value::from),
        any::<f64>()
            .prop_filter("whole numbers are integers", |x| x.is_finite() && x.fract() != 0.0)
            .prop_map(serde_json::Value::from),
        any::<String>().prop_map(serde_json::Value::from),
    ];
    leaf.prop_recursive(4, 32, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(serde_json::Value::from),
            prop::collection::btree_map(any::<String>(), inner, 0..6).prop_map(|map| map.into_iter().collect()),
        ]
    })
}

proptest! {
    /// What other writers write is read as they mean it.
    #[test]
    fn standard_json_is_read(value in value(), pretty in any::<bool>()) {
        let text = if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) }.unwrap();
        prop_assert_eq!(serde_json::Value::from(Json::parse(&text).unwrap()), value);
    }

    /// No text panics, and no text that is cut short is read.
    #[test]
    fn cut_objects_are_refused(value in prop::collection::btree_map(any::<String>(), value(), 1..4), cut in any::<prop::sample::Index>()) {
        let text = serde_json::to_string(&value).unwrap();
        let end = text.floor_char_boundary(cut.index(text.len()));
        prop_assert!(Json::parse(&text[..end]).is_err());
    }

    #[test]
    fn any_text_is_read_or_refused(text in any::<String>()) {
        let _ = Json::parse(&text);
    }
}
