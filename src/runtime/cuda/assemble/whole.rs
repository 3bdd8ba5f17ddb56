//! Group norms of whole maps: statistics and norm in one launch, where the rows are wanted.

use std::collections::{HashMap, HashSet};

use fisec_kernels::cuda::{self as kernel, Address, NORM_SILU, NormParams, norm_slice};
use fisec_plan::{Extent, Kernel, NormKernel, ValueId};

use super::{Assembler, Context, Rowed};
use crate::RuntimeError;

/// Most bytes of a map that is normed in one launch: it is read twice, the second time from the L2 cache.
const LARGEST_MAP: usize = 40 << 20;

/// Nodes whose coefficients nobody reads but the one call that applies them to all that the statistics are over.
pub(super) fn whole_norms(context: &Context<'_>) -> HashSet<usize> {
    let program = context.program;
    let makers: HashMap<ValueId, &Kernel> = program
        .nodes
        .iter()
        .flat_map(|node| node.kernel.outputs().into_iter().map(|id| (id, &node.kernel)))
        .collect();
    let mut readers: HashMap<ValueId, Vec<&Kernel>> = HashMap::new();
    for node in &program.nodes {
        for id in node.kernel.inputs() {
            readers.entry(id).or_default().push(&node.kernel);
        }
    }
    let nodes = program.nodes.iter().enumerate();
    let whole = nodes.filter(|(_, node)| match &node.kernel {
        Kernel::NormCoefficients(norm) => is_whole(context, &makers, &readers, norm).unwrap_or(false),
        _ => false,
    });
    whole.map(|(index, _)| index).collect()
}

fn is_whole(
    context: &Context<'_>,
    makers: &HashMap<ValueId, &Kernel>,
    readers: &HashMap<ValueId, Vec<&Kernel>>,
    norm: &NormKernel,
) -> Option<bool> {
    let Kernel::GroupNormStats { input, groups, .. } = makers.get(&norm.stats)? else {
        return None;
    };
    let value = |id: ValueId| &context.program.values[id.index()];
    let channels = |id: ValueId| value(id).shape.last().copied().unwrap_or(0);
    let parts = parts(makers, input.value);
    let vectors = parts.iter().all(|&part| channels(part).is_multiple_of(8)) && parts.len() <= 2;
    let in_cache = value(input.value).shape.elements() * 2 <= LARGEST_MAP;
    let is_full = in_cache && value(input.value).extent == Extent::Full && value(norm.stats).extent == Extent::Full;
    norm_slice(context.gpu.arch, channels(input.value), *groups)?;
    let (writes, users): (Vec<&Kernel>, Vec<&Kernel>) = readers
        .get(&norm.output)?
        .iter()
        .partition(|kernel| matches!(kernel, Kernel::WriteSlot { .. }));
    let applies = match users[..] {
        [Kernel::Conv(conv)] => {
            let sources = conv.sources.iter().flat_map(|source| self::parts(makers, source.value));
            conv.sources.iter().all(|source| source.outside.is_none()) && sources.eq(parts.iter().copied())
        }
        [Kernel::Affine { input: applied, .. }] => parts == [*applied],
        _ => false,
    };
    let read_once = readers.get(&norm.stats).is_some_and(|readers| readers.len() == 1);
    Some(is_full && vectors && read_once && writes.len() <= 1 && applies)
}

fn parts(makers: &HashMap<ValueId, &Kernel>, id: ValueId) -> Vec<ValueId> {
    match makers.get(&id) {
        Some(Kernel::Concat { inputs, .. }) => inputs.clone(),
        _ => vec![id],
    }
}

impl Assembler<'_> {
    /// Norms the parts of a map one behind the other into `to`, by the coefficients of a node.
    pub(super) fn whole_norm(
        &mut self,
        node: usize,
        parts: &[(ValueId, Rowed)],
        to: &[Rowed],
        silu: bool,
    ) -> Result<(), RuntimeError> {
        let context = self.context;
        let Kernel::NormCoefficients(norm) = &context.program.nodes[node].kernel else {
            return Err(self.error("no norm is computed there"));
        };
        let groups = self.groups_of(norm.stats)?;
        let channels = parts.iter().map(|(id, _)| self.channels(*id)).collect::<Vec<_>>();
        let slice = norm_slice(context.gpu.arch, channels.iter().sum(), groups);
        let slice = slice.ok_or_else(|| self.error("its groups are no whole vectors"))?;
        let second = |of: &dyn Fn(usize) -> i32| [of(0), if parts.len() > 1 { of(1) } else { 0 }];
        let params = NormParams {
            source: [
                parts[0].1.address,
                parts.get(1).map_or(Address::ABSENT, |(_, rows)| rows.address),
            ],
            output: [to[0].address, to.get(1).map_or(Address::ABSENT, |rows| rows.address)],
            statistics: Address::ABSENT,
            affine: self.kept_coefficients(norm.output).unwrap_or(Address::ABSENT),
            gamma: self.weight(norm.gamma)?,
            beta: self.weight(norm.beta)?,
            slots: context.table,
            channels: second(&|part| channels[part] as i32),
            source_stride: second(&|part| parts[part].1.stride as i32),
            output_stride: second(&|part| to[part].stride as i32),
            rows: self.pixels(parts[0].0) as i32,
            groups: groups as i32,
            slice: slice as i32,
            flags: if silu { NORM_SILU } else { 0 },
            epsilon: norm.epsilon as f32,
            reserved: 0,
        };
        let images = self.images(parts[0].0);
        self.launch(kernel::group_norm_whole(&params, images));
        Ok(())
    }

    fn groups_of(&self, stats: ValueId) -> Result<usize, RuntimeError> {
        let nodes = &self.context.program.nodes;
        let groups = nodes.iter().find_map(|node| match &node.kernel {
            Kernel::GroupNormStats { groups, output, .. } if *output == stats => Some(*groups),
            _ => None,
        });
        groups.ok_or_else(|| self.error("no statistics are computed for it"))
    }
}
