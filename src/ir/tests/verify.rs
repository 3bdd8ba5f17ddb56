//! What the verifier accepts, and how it words what it refuses.

use fisec_ir::text::parse;
use fisec_ir::verify::verify;
use fisec_ir::*;
use fisec_tensor::DType;

const TABLES: &str = r#"graph g
slots {
  s0 "conv1" : f32[2,8,4,6] level 0
  s1 "stats" : f32[2,4,2]
}
weights {
  @w : f32[8,4,3,3]
  @w1 : f32[8,8,1,1]
  @down : f32[8,8,3,3]
  @linear : f32[8,16]
  @c : f32[8]
}
%x = input "x" : f32[2,4,4,6]
%t = input "t" : f32[2,5,8]
"#;

fn check(body: &str) -> Vec<String> {
    let graph = parse(&format!("{TABLES}{body}")).unwrap();
    match verify(&graph) {
        Ok(()) => Vec::new(),
        Err(errors) => errors.into_iter().map(|error| error.message).collect(),
    }
}

fn accepts(body: &str) {
    assert_eq!(check(body), Vec::<String>::new(), "{body}");
}

fn refuses(body: &str, message: &str) {
    assert_eq!(check(body), [message], "{body}");
}

/// `%y` active at a0, `%s` its scatter, `%r` the recorded value.
const SPARSE: &str = r#"
%y = conv %x, @w, @c, kernel=3x3 pad=1 bias : f32[2,8,4,6]@a0
%r = cache.read s0 : f32[2,8,4,6]
%s = scatter %y, %r, halo=1 : f32[2,8,4,6]
"#;

#[test]
fn a_sparse_chain_is_sound() {
    accepts(&format!(
        r#"{SPARSE}
        %stats = cache.read s1 : f32[2,4,2]
        %update = group_norm_stats_update %y, %r, %stats, groups=4 : f32[2,4,2]
        %k = norm_coefficients %update, @c, @c, groups=4 epsilon=1e-5 : f32[2,2,8]
        %z = conv %s, @down, %k, %y, kernel=3x3 pad=1 affine activation=silu residual : f32[2,8,4,6]@a0
        %q = tokens %z : f32[2,24,8]@a0
        %kv = layer_norm %t, @c, @c, epsilon=1e-5 : f32[2,5,8]
        %o = attention %q, %kv, %kv, heads=2 scale=0.5 : f32[2,24,8]@a0
        %self = attention %q, %o, %o, heads=2 scale=0.5 : f32[2,24,8]@a0
        %f = linear %self, @linear, %q, geglu residual : f32[2,24,8]@a0
        %m = spatial %f, size=4x6 : f32[2,8,4,6]@a0
        %d = conv %s, @down, kernel=3x3 pad=1 stride=2 : f32[2,8,2,3]@a1
        %u = upsample %d, size=4x6 : f32[2,8,4,6]@a0
        %cat = concat %u, %m, axis=1 : f32[2,16,4,6]@a0
        %g = gather %x : f32[2,4,4,6]@a0
        output %cat, "out"
        cache.write %s, s0
        "#
    ));
}

#[test]
fn types_follow_the_shape_rules() {
    refuses("%y = geglu %t : f32[2,5,5]", "the result is f32[2,5,4]");
    refuses("%y = geglu %t : f16[2,5,4]", "the result is f32[2,5,4]");
    refuses(
        "%y = conv %x, @w1, kernel=1x1 : f32[2,8,4,6]",
        "`w` has shape [8,8,1,1], expected [8,4,1,1]",
    );
    refuses(
        "%y = conv %x, @w, kernel=3x3 bias : f32[2,8,4,6]",
        "`conv` takes 3 operands, got 2",
    );
    refuses("%y = conv %x, @w, kernel=3x3 stride=0 : f32[2,8,4,6]", "stride is zero");
    refuses(
        "%y = spatial %t, size=2x3 : f32[2,8,2,3]",
        "5 tokens are not 2x3 pixels",
    );
    refuses(
        "%y = attention %t, %t, %t, heads=3 scale=1.0 : f32[2,5,8]",
        "8 channels do not split into 3 heads",
    );
    refuses(
        "%y = add %x, %t : f32[2,5,8]",
        "shapes [2,4,4,6] and [2,5,8] do not broadcast",
    );
    refuses("%y = add %x, _ : f32[2,5,8]", "`add` has no optional operands");
    refuses("%y, %z = geglu %t : f32[2,5,4], f32[]", "`geglu` has 1 results, not 2");
}

#[test]
fn extents_are_sound() {
    let with = |line: &str| format!("{SPARSE}\n{line}");
    refuses(
        &with("%b = conv %y, @down, kernel=3x3 pad=1 : f32[2,8,4,6]@a0"),
        "a result at a0 cannot read operand 0, which is only there at a0",
    );
    refuses(
        &with("%b = activate %y, function=silu : f32[2,8,4,6]"),
        "a full result reads operand 0, which is f32[2,8,4,6]@a0",
    );
    refuses(&with("%b = gather %y : f32[2,8,4,6]@a0"), "`gather` takes a full value");
    refuses(
        &with("%b = gather %r : f32[2,8,4,6]"),
        "the result of `gather` is active",
    );
    refuses(
        &with("%b = scatter %r, %r, full : f32[2,8,4,6]"),
        "`scatter` takes an active value",
    );
    refuses(
        &with("%b = scatter %y, %y, full : f32[2,8,4,6]"),
        "the base of `scatter` is full",
    );
    refuses(
        &with("%b = cache.read s0 : f32[2,8,4,6]@a0"),
        "slot s0 holds f32[2,8,4,6], not f32[2,8,4,6]@a0",
    );
    refuses(
        &with("%b = group_norm_stats %y, groups=4 : f32[2,4,2]"),
        "a full result reads operand 0, which is f32[2,8,4,6]@a0",
    );
    refuses(
        &with("%b = gather %r : f32[2,8,4,6]@r0\n%c = add %y, %b : f32[2,8,4,6]@a0"),
        "a result at a0 cannot read operand 1, which is only there at r0",
    );
    refuses(
        &with("%b = gather %r : f32[2,8,4,6]@r0\n%c = conv %b, @down, kernel=3x3 stride=2 pad=1 : f32[2,8,2,3]@a1"),
        "a result at a1 cannot read operand 0, which is only there at r0",
    );
    accepts(&with(
        "%b = gather %r : f32[2,8,4,6]@r0\n%c = conv %b, @down, kernel=3x3 pad=1 : f32[2,8,4,6]@a0",
    ));
    refuses(
        &with("%b = tokens %y : f32[2,24,8]@a0\n%c = concat %b, %b, axis=1 : f32[2,48,8]@a0"),
        "active values are concatenated along channels only",
    );
    refuses(
        &with("%b = gather %r : f32[2,8,4,6]@a2\n%c = add %y, %b : f32[2,8,4,6]@a0"),
        "a result at a0 cannot read operand 1, which is only there at a2",
    );
    refuses(
        &with("%b = layer_norm %t, @c, @c, epsilon=1e-5 : f32[2,5,8]@a0"),
        "level a0 has 4x6 pixels, not 5 tokens",
    );
    refuses(
        &with("%b = conv %s, @down, kernel=3x3 : f32[2,8,2,4]@a1"),
        "level a1 must have 2,3 rows and columns, half of a0",
    );
}

#[test]
fn slots_and_names_are_checked() {
    refuses("%b = cache.read s7 : f32[1]", "there is no slot s7");
    refuses("cache.write %t, s0", "slot s0 holds f32[2,8,4,6], not f32[2,5,8]");
    refuses("output %x, \"o\"\noutput %t, \"o\"", "two outputs are called `o`");
    refuses("%b = input \"x\" : f32[1]", "two inputs are called `x`");
}

#[test]
fn opaque_operators_are_free() {
    accepts("%a, %b = onnx Split %x, _, @w, opset=17 {axis=1} : f32[9], i64[]");
}

#[test]
fn errors_show_the_line_and_its_origin() {
    let source = format!("{TABLES}%y = geglu %t : f32[2,5,5] ; names \"/ff/net.0/Mul\", pass \"raise_geglu\"\n");
    let errors = verify(&parse(&source).unwrap()).unwrap_err();
    assert_eq!(
        errors[0].to_string(),
        "the result is f32[2,5,4]\n  --> %2 = geglu %1 : f32[2,5,5] ; names \"/ff/net.0/Mul\", pass \"raise_geglu\""
    );
}

#[test]
fn cycles_and_missing_operands_are_found() {
    let mut graph = Graph::new("g");
    let ty = ValueType::full(DType::F32, [2]);
    let a = graph.add_value(
        Op::Activate(Activation::Silu),
        vec![Operand::Absent],
        ty.clone(),
        Origin::imported("a"),
    );
    let b = graph.add_value(
        Op::Activate(Activation::Silu),
        vec![a.into()],
        ty.clone(),
        Origin::imported("b"),
    );
    graph.set_operand(a.node, 0, b.into());
    let errors = verify(&graph).unwrap_err();
    assert!(
        errors[0].message.starts_with("the graph has a cycle through `"),
        "{errors:?}"
    );

    graph.set_operand(
        a.node,
        0,
        ValueId {
            node: b.node,
            output: 3,
        }
        .into(),
    );
    let errors = verify(&graph).unwrap_err();
    assert!(
        errors
            .iter()
            .any(|error| error.message == "reads output 3 of `b`, which has 1"),
        "{errors:?}"
    );

    graph.set_operand(a.node, 0, WeightId(9).into());
    let errors = verify(&graph).unwrap_err();
    assert_eq!(errors[0].message, "reads weight 9 of 0");
    assert!(errors[0].line.contains("@?"));
}
