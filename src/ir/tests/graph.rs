//! The graph's lists of users follow its operands, whatever is changed.

use fisec_ir::{Graph, NodeId, Op, Operand, Origin, SlotInfo, ValueId, ValueType, WeightInfo};
use fisec_tensor::{Constant, DType};
use proptest::prelude::*;

fn map() -> ValueType {
    ValueType::full(DType::F32, [1, 4, 8, 8])
}

/// One change of a graph; numbers choose among what there is.
#[derive(Clone, Debug)]
enum Change {
    Add(Vec<usize>),
    Replace(usize, usize),
    SetOperand(usize, usize, usize),
    Output(usize),
    Prune,
}

fn change() -> impl Strategy<Value = Change> {
    let number = 0usize..1000;
    prop_oneof![
        4 => prop::collection::vec(0usize..1000, 1..30).prop_map(Change::Add),
        2 => (number.clone(), number.clone()).prop_map(|(old, new)| Change::Replace(old, new)),
        2 => (number.clone(), number.clone(), number.clone()).prop_map(|(node, at, new)| Change::SetOperand(node, at, new)),
        1 => number.prop_map(Change::Output),
        1 => Just(Change::Prune),
    ]
}

fn value(node: NodeId) -> ValueId {
    ValueId { node, output: 0 }
}

/// Nodes with a result, in the order in which they may read each other.
fn values(graph: &Graph) -> Vec<NodeId> {
    let order = graph.ordered().expect("no cycle");
    order
        .into_iter()
        .filter(|&id| !graph.node(id).outputs().is_empty())
        .collect()
}

fn apply(graph: &mut Graph, change: Change) {
    let known = values(graph);
    let pick = |number: usize| known[number % known.len()];
    match change {
        Change::Add(operands) => {
            let operands = operands.into_iter().map(|number| value(pick(number)).into()).collect();
            graph.add_value(Op::Add, operands, map(), Origin::default());
        }
        // only earlier values, so that no cycle comes of it
        Change::Replace(old, new) => {
            let (old, new) = (old % known.len(), new % known.len());
            graph.replace_uses(value(known[old.max(new)]), value(known[old.min(new)]));
        }
        Change::SetOperand(node, at, new) => {
            let place = node % known.len();
            let operands = graph.operands(known[place]).len();
            if operands > 0 {
                graph.set_operand(known[place], at % operands, value(known[new % place.max(1)]).into());
            }
        }
        Change::Output(number) => {
            graph.add(
                Op::Output("result".into()),
                vec![value(pick(number)).into()],
                vec![],
                Origin::default(),
            );
        }
        Change::Prune => {
            graph.prune();
        }
    }
}

/// Users by looking at every operand of every node.
fn users_by_search(graph: &Graph, wanted: ValueId) -> Vec<(NodeId, usize)> {
    let uses = graph.ids().into_iter().flat_map(|id| {
        let operands = graph.operands(id).iter().enumerate();
        let wanted = operands.filter(move |(_, operand)| **operand == Operand::Value(wanted));
        wanted.map(move |(position, _)| (id, position)).collect::<Vec<_>>()
    });
    let mut users: Vec<_> = uses.collect();
    users.sort_unstable();
    users
}

proptest! {
    #[test]
    fn users_follow_operands(changes in prop::collection::vec(change(), 1..60)) {
        let mut graph = Graph::new("record");
        let input = graph.add_value(Op::Input("sample".into()), vec![], map(), Origin::default());
        graph.add(Op::Output("sample".into()), vec![input.into()], vec![], Origin::default());
        for change in changes {
            let copy = graph.clone();
            let before = copy.ids().len();
            apply(&mut graph, change);
            prop_assert_eq!(copy.len(), before, "a clone is not changed with its original");
            prop_assert_eq!(graph.len(), graph.ids().len());
            for node in values(&graph) {
                let found = users_by_search(&graph, value(node));
                prop_assert_eq!(graph.is_used(value(node)), !found.is_empty());
                let sole = (found.len() == 1).then(|| found[0].0);
                prop_assert_eq!(graph.sole_user(value(node)), sole);
                prop_assert_eq!(graph.users(value(node)), found);
            }
        }
    }
}

#[test]
fn names_that_are_taken_get_the_first_free_number() {
    let mut graph = Graph::new("record");
    let mut add = |name: &str| {
        let data = Constant::filled(DType::F32, [1], 0.0);
        let id = graph.add_weight(WeightInfo {
            name: name.into(),
            data,
        });
        graph.weight(id).name.clone()
    };
    let names = ["w", "w", "w#3", "w", "w", "w#3", "v"].map(&mut add);
    assert_eq!(names, ["w", "w#2", "w#3", "w#4", "w#5", "w#3#2", "v"]);

    let slot = |name: String| SlotInfo {
        name,
        value_type: map(),
        level: None,
    };
    for expected in ["s", "s#2", "s#3"] {
        let name = graph.unique_slot_name("s");
        assert_eq!(name, expected);
        graph.add_slot(slot(name));
    }
    graph.set_slots(vec![slot("s".into())]);
    assert_eq!(
        graph.unique_slot_name("s"),
        "s#2",
        "names of removed slots are free again"
    );
}

/// A guard, far above what it takes: a quadratic step would take minutes.
#[test]
fn a_value_with_many_users_and_a_node_with_many_operands_are_changed_in_time() {
    const MANY: usize = 100_000;
    let started = std::time::Instant::now();
    let mut graph = Graph::new("record");
    let input = graph.add_value(Op::Input("sample".into()), vec![], map(), Origin::default());
    let other = graph.add_value(Op::Input("other".into()), vec![], map(), Origin::default());
    let users: Vec<Operand> = (0..MANY)
        .map(|_| {
            graph
                .add_value(Op::Add, vec![input.into()], map(), Origin::default())
                .into()
        })
        .collect();
    let sum = graph.add_value(Op::Add, users.clone(), map(), Origin::default());
    graph.add(Op::Output("result".into()), vec![sum.into()], vec![], Origin::default());
    graph.replace_uses(input, other);
    assert_eq!(graph.users(other).len(), MANY);
    for (position, user) in users.iter().enumerate() {
        graph.replace_uses(user.value().unwrap(), other);
        assert_eq!(graph.operands(sum.node)[position], other.into());
        assert_eq!(graph.sole_user(other), None);
    }
    assert_eq!(graph.prune(), MANY, "users without users");
    assert!(started.elapsed().as_secs() < 60, "{:?}", started.elapsed());
}
