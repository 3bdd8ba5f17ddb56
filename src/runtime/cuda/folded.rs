//! Layer norms that are folded into the product behind them: gamma and beta into its weights, once; mean and deviation
//! into its epilogue. Whoever computes the rows says what these are, so that the norm is no call of its own.

use std::collections::{BTreeMap, HashMap, HashSet};

use fisec_kernels::cuda::ROW_PART_COLUMNS;
use fisec_plan::{Kernel, LinearKernel, Plan, Program, ProgramKind, Stage, ValueId, WeightId};

use crate::executor::Prepared;

/// A layer norm that a product's weights hold.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct FoldedNorm {
    /// the rows before the norm
    pub(super) input: ValueId,
    pub(super) epsilon: f64,
    /// the call that is left out, where it is not the product's own
    skipped: Option<usize>,
}

/// What is folded into a weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fold {
    pub(super) gamma: WeightId,
    pub(super) beta: WeightId,
    pub(super) bias: Option<WeightId>,
}

/// The norms of one program by the node of their product.
#[derive(Clone, Debug, Default)]
pub(super) struct FoldedNorms {
    by_product: HashMap<usize, FoldedNorm>,
}

impl FoldedNorms {
    /// The norm before a product.
    pub(super) fn of(&self, product: usize) -> Option<FoldedNorm> {
        self.by_product.get(&product).copied()
    }

    /// Whether a layer norm's call is left out.
    pub(super) fn skips(&self, node: usize) -> bool {
        self.by_product.values().any(|norm| norm.skipped == Some(node))
    }

    /// The last product that wants to know mean and deviation of a value's rows.
    pub(super) fn last_of(&self, value: ValueId) -> Option<usize> {
        let products = self.by_product.iter().filter(|(_, norm)| norm.input == value);
        products.map(|(&product, _)| product).max()
    }
}

/// Norms of all programs, and what becomes of weights. A weight is folded when all that reads it has the same norm, and
/// products make the rows of all of them.
pub(super) fn folded(
    plan: &Plan,
    prepared: &HashMap<ProgramKind, Prepared>,
) -> (HashMap<ProgramKind, FoldedNorms>, BTreeMap<WeightId, Fold>) {
    let mut folds: BTreeMap<WeightId, Option<Fold>> = BTreeMap::new();
    let mut norms: HashMap<ProgramKind, FoldedNorms> = HashMap::new();
    for (kind, program) in plan.programs.iter() {
        let reading = Reading::new(program, &prepared[&kind]);
        let own = norms.entry(kind).or_default();
        for (index, node) in reading.steps() {
            let (weight, fold) = match &node.kernel {
                Kernel::Linear(linear) => match reading.norm_before(linear) {
                    Some((norm, fold)) => {
                        own.by_product.insert(index, norm);
                        (linear.weight, Some(fold))
                    }
                    None => (linear.weight, None),
                },
                Kernel::Conv(conv) => (conv.weight, None),
                _ => continue,
            };
            let known = folds.entry(weight).or_insert(fold);
            if *known != fold {
                *known = None;
            }
        }
    }
    for (kind, own) in &mut norms {
        let nodes = plan.programs.get(*kind).map_or(&[][..], |program| &program.nodes);
        own.by_product.retain(|&product, _| match &nodes[product].kernel {
            Kernel::Linear(linear) => folds[&linear.weight].is_some(),
            _ => false,
        });
    }
    let folds = folds.into_iter().filter_map(|(weight, fold)| Some((weight, fold?)));
    (norms, folds.collect())
}

/// Who makes and who reads the values of a program.
struct Reading<'a> {
    program: &'a Program,
    makers: HashMap<ValueId, usize>,
    reads: HashMap<ValueId, usize>,
}

impl<'a> Reading<'a> {
    fn new(program: &'a Program, prepared: &Prepared) -> Self {
        let mut reading = Reading {
            program,
            makers: HashMap::new(),
            reads: HashMap::new(),
        };
        let remembered = prepared.remembered.iter().flatten().map(|(_, value)| *value);
        let inputs = program.nodes.iter().flat_map(|node| node.kernel.inputs());
        for id in inputs.chain(program.outputs.values().copied()).chain(remembered) {
            *reading.reads.entry(id).or_insert(0) += 1;
        }
        for (index, node) in program.nodes.iter().enumerate() {
            reading
                .makers
                .extend(node.kernel.outputs().into_iter().map(|id| (id, index)));
        }
        reading
    }

    fn steps(&self) -> impl Iterator<Item = (usize, &'a fisec_plan::Node)> + use<'a> {
        let nodes = self.program.nodes.iter().enumerate();
        nodes.filter(|(_, node)| node.stage == Stage::Step)
    }

    fn maker(&self, id: ValueId) -> Option<(usize, &'a Kernel)> {
        let index = *self.makers.get(&id)?;
        let node = &self.program.nodes[index];
        (node.stage == Stage::Step).then_some((index, &node.kernel))
    }

    fn norm_before(&self, linear: &LinearKernel) -> Option<(FoldedNorm, Fold)> {
        let (skipped, input, (gamma, beta, epsilon)) = match linear.layer_norm {
            Some(norm) => (None, linear.input, norm),
            None => match self.maker(linear.input)? {
                (
                    index,
                    &Kernel::LayerNorm {
                        input,
                        gamma,
                        beta,
                        epsilon,
                        ..
                    },
                ) if self.reads.get(&linear.input) == Some(&1) => (Some(index), input, (gamma, beta, epsilon)),
                _ => return None,
            },
        };
        let columns = |id: ValueId| self.program.values[id.index()].shape.last().copied().unwrap_or(0);
        let results: HashSet<ValueId> = linear.siblings.iter().copied().chain([linear.output]).collect();
        let makes_parts = match self.maker(input)?.1 {
            Kernel::Conv(_) => true,
            Kernel::Linear(maker) => maker.siblings.is_empty() && !maker.geglu,
            _ => false,
        };
        let whole = |columns: usize| columns.is_multiple_of(ROW_PART_COLUMNS);
        let fits = makes_parts && whole(columns(input)) && whole(results.into_iter().map(columns).sum());
        let bias = linear.bias;
        fits.then_some((
            FoldedNorm {
                input,
                epsilon,
                skipped,
            },
            Fold { gamma, beta, bias },
        ))
    }
}
