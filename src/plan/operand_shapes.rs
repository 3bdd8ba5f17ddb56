//! Shapes and extents that each kernel's operands must have.

use fisec_tensor::{DType, Shape};

use crate::cuda;
use crate::{
    AttentionKernel, CausalKernel, ControlInput, ControlledAttentionKernel, ConvKernel, Extent, IslandCall, Kernel,
    LinearKernel, NormKernel, Plan, PlanError, Program, SlotId, Value, ValueId, WeightId,
};

/// Most taps of a convolution.
const LARGEST_WINDOW: usize = 1 << 10;

/// Fails when the operands do not fit each other. All indices are known to be in range.
pub(crate) fn check_operands(plan: &Plan, program: &Program, kernel: &Kernel, place: &str) -> Result<(), PlanError> {
    let check = Check { plan, program, place };
    match kernel {
        Kernel::Island(call) => check.island(call),
        Kernel::Conv(conv) => check.conv(conv),
        Kernel::Linear(linear) => check.linear(linear),
        Kernel::Attention(attention) => check.attention(attention),
        Kernel::ControlledAttention(attention) => check.controlled(attention),
        Kernel::AttentionMaps(maps) => check.maps([maps.q, maps.k, maps.output], maps.heads),
        Kernel::LayerNorm {
            input,
            gamma,
            beta,
            output,
            ..
        } => {
            let channels = check.channels(*input);
            check.whole_vectors(*input)?;
            check.vector(*gamma, channels)?;
            check.vector(*beta, channels)?;
            check.alike(*input, *output)
        }
        Kernel::Geglu { input, output } => {
            check.whole_vectors(*output)?;
            check.same_rows(*input, *output)?;
            check.equal(check.channels(*input), 2 * check.channels(*output), "input channels")
        }
        Kernel::Silu { input, output } => check.alike(*input, *output),
        Kernel::Gelu { .. } | Kernel::Lookup { .. } | Kernel::AddConstant { .. } | Kernel::CausalAttention(_) => {
            check.only_on_devices(kernel)
        }
        Kernel::Add { a, b, output } => {
            check.alike(*a, *output)?;
            check.residual(b.value, *output)
        }
        Kernel::GroupNormStats { input, groups, output } => {
            check.outside(input.value, input.outside)?;
            check.stats(check.value(*output), check.channels(input.value), *groups)
        }
        Kernel::GroupNormStatsUpdate(update) => {
            check.same_size(
                &plan.slots[update.recorded.index()].shape,
                &check.value(update.input).shape,
            )?;
            check.stats(check.value(update.output), check.channels(update.input), update.groups)?;
            check.slot_fits(update.recorded_stats, check.value(update.output))
        }
        Kernel::NormCoefficients(norm) => check.norm(norm),
        Kernel::Affine {
            input,
            coefficients,
            output,
            ..
        } => {
            check.coefficients(*coefficients, check.channels(*input))?;
            check.alike(*input, *output)
        }
        Kernel::Repeat { input, output } => check.repeat(*input, *output),
        Kernel::Concat { inputs, output } => {
            inputs.iter().try_for_each(|input| check.whole_vectors(*input))?;
            inputs.iter().try_for_each(|input| check.same_rows(*input, *output))?;
            let channels: usize = inputs.iter().map(|input| check.channels(*input)).sum();
            check.equal(channels, check.channels(*output), "channels")
        }
        Kernel::ReadSlot { slot, output } => check.slot_fits(*slot, check.value(*output)),
        Kernel::WriteSlot { input, slot } => check.slot_fits(*slot, check.value(*input)),
        Kernel::Gather { input, output } => check.extents(*input, *output),
        Kernel::Scatter { rows, base, output } => {
            check.extents(*output, *rows)?;
            check.outside(*rows, *base)
        }
    }
}

struct Check<'a> {
    plan: &'a Plan,
    program: &'a Program,
    place: &'a str,
}

impl Check<'_> {
    fn value(&self, id: ValueId) -> &Value {
        &self.program.values[id.index()]
    }

    fn channels(&self, id: ValueId) -> usize {
        self.value(id).shape.last().copied().unwrap_or(1)
    }

    fn fail(&self, message: impl Into<String>) -> Result<(), PlanError> {
        Err(PlanError::invalid(self.place, message))
    }

    fn equal(&self, got: usize, expected: usize, what: &str) -> Result<(), PlanError> {
        if got == expected {
            return Ok(());
        }
        self.fail(format!("{what}: {got} instead of {expected}"))
    }

    fn weight(&self, id: WeightId, dims: &[usize]) -> Result<(), PlanError> {
        let weight = &self.plan.weights[id.index()];
        if weight.shape.dims() == dims {
            return Ok(());
        }
        let expected = Shape::from(dims);
        self.fail(format!(
            "weight `{}` is [{}] instead of [{expected}]",
            weight.name, weight.shape
        ))
    }

    fn vector(&self, id: WeightId, channels: usize) -> Result<(), PlanError> {
        match self.plan.is_cuda() {
            true => self.half(id, &[cuda::padded(channels)]),
            false => self.weight(id, &[channels]),
        }
    }

    /// Weights of a product over `taps` of concatenated sources.
    fn product(&self, id: WeightId, taps: [usize; 2], sources: &[usize], columns: usize) -> Result<(), PlanError> {
        let [height, width] = taps;
        let channels = sources.iter().sum();
        match self.plan.is_cuda() {
            true => {
                let taps = height.checked_mul(width).filter(|&taps| taps <= LARGEST_WINDOW);
                let Some(taps) = taps else {
                    return self.fail("its window is not plausible");
                };
                self.half(id, &cuda::packed_shape(taps, sources, columns))
            }
            false => self.weight(id, &[height, width, channels, columns]),
        }
    }

    fn half(&self, id: WeightId, dims: &[usize]) -> Result<(), PlanError> {
        if self.plan.weights[id.index()].dtype != DType::F16 {
            return self.fail("a weight for a device is not f16");
        }
        self.weight(id, dims)
    }

    /// What kernels of a device move: whole vectors of channels.
    fn whole_vectors(&self, id: ValueId) -> Result<(), PlanError> {
        if self.plan.is_cuda() && !self.channels(id).is_multiple_of(cuda::CHANNELS) {
            return self.fail(format!(
                "{} channels are no multiple of {}",
                self.channels(id),
                cuda::CHANNELS
            ));
        }
        Ok(())
    }

    fn same_rows(&self, a: ValueId, b: ValueId) -> Result<(), PlanError> {
        let (a, b) = (self.value(a), self.value(b));
        if a.extent != b.extent {
            return self.fail("operands of different extents");
        }
        self.equal(rows(&a.shape), rows(&b.shape), "rows")
    }

    fn alike(&self, a: ValueId, b: ValueId) -> Result<(), PlanError> {
        self.same_rows(a, b)?;
        self.equal(self.channels(a), self.channels(b), "channels")
    }

    /// `full` and `active` are the same map at full and active extent.
    fn extents(&self, full: ValueId, active: ValueId) -> Result<(), PlanError> {
        let (full, active) = (self.value(full), self.value(active));
        if full.extent != Extent::Full || !matches!(active.extent, Extent::Active(_)) {
            return self.fail("one operand must be full and the other active");
        }
        self.same_size(&full.shape, &active.shape)
    }

    fn same_size(&self, a: &Shape, b: &Shape) -> Result<(), PlanError> {
        self.equal(rows(a), rows(b), "rows")?;
        self.equal(
            a.last().copied().unwrap_or(1),
            b.last().copied().unwrap_or(1),
            "channels",
        )
    }

    fn slot_fits(&self, slot: SlotId, value: &Value) -> Result<(), PlanError> {
        if value.extent != Extent::Full {
            return self.fail("slots hold full values");
        }
        self.same_size(&self.plan.slots[slot.index()].shape, &value.shape)
    }

    fn outside(&self, value: ValueId, slot: Option<SlotId>) -> Result<(), PlanError> {
        let Some(slot) = slot else { return Ok(()) };
        let (slot, value) = (&self.plan.slots[slot.index()].shape, &self.value(value).shape);
        match (slot.first(), value.first()) {
            (Some(1), Some(&images)) => self.images(slot, value, images),
            _ => self.same_size(slot, value),
        }
    }

    /// `all` is `one` image so many times.
    fn images(&self, one: &Shape, all: &Shape, images: usize) -> Result<(), PlanError> {
        self.equal(rows(all), rows(one).saturating_mul(images), "rows")?;
        self.equal(
            one.last().copied().unwrap_or(1),
            all.last().copied().unwrap_or(1),
            "channels",
        )
    }

    fn repeat(&self, input: ValueId, output: ValueId) -> Result<(), PlanError> {
        let (one, all) = (self.value(input), self.value(output));
        self.whole_vectors(output)?;
        match (one.shape.first(), all.shape.first()) {
            (Some(1), Some(&images)) if one.extent == all.extent => self.images(&one.shape, &all.shape, images),
            _ => self.fail("one image of the same extent is repeated"),
        }
    }

    fn residual(&self, residual: ValueId, output: ValueId) -> Result<(), PlanError> {
        let (from, to) = (self.value(residual), self.value(output));
        if from.extent != Extent::Full && from.extent != to.extent {
            return self.fail("the residual is neither full nor of the output's extent");
        }
        self.same_size(&from.shape, &to.shape)
    }

    fn stats(&self, stats: &Value, channels: usize, groups: usize) -> Result<(), PlanError> {
        if groups == 0 || !channels.is_multiple_of(groups) {
            return self.fail(format!("{channels} channels cannot make {groups} groups"));
        }
        match stats.shape.dims() {
            [_, found, 2] if *found == groups => Ok(()),
            _ => self.fail(format!("statistics are [{}], not [N,{groups},2]", stats.shape)),
        }
    }

    fn coefficients(&self, id: ValueId, channels: usize) -> Result<(), PlanError> {
        match self.value(id).shape.dims() {
            [_, 2, found] if *found == channels => Ok(()),
            _ => self.fail(format!(
                "coefficients are [{}], not [N,2,{channels}]",
                self.value(id).shape
            )),
        }
    }

    /// Kernels of the networks beside the denoiser.
    fn only_on_devices(&self, kernel: &Kernel) -> Result<(), PlanError> {
        if !self.plan.is_cuda() {
            return self.fail("only devices have this kernel");
        }
        match kernel {
            Kernel::Gelu { input, output, .. } => {
                self.whole_vectors(*output)?;
                self.alike(*input, *output)
            }
            Kernel::Lookup { ids, table, output } => self.lookup(*ids, *table, *output),
            Kernel::AddConstant {
                input,
                constant,
                output,
            } => {
                self.whole_vectors(*output)?;
                let shape = &self.value(*output).shape;
                self.weight(*constant, shape.get(1..).unwrap_or_default())?;
                self.equal(shape.first().copied().unwrap_or(0), 1, "images")?;
                self.alike(*input, *output)
            }
            Kernel::CausalAttention(attention) => self.causal(attention),
            _ => Ok(()),
        }
    }

    fn lookup(&self, ids: ValueId, table: WeightId, output: ValueId) -> Result<(), PlanError> {
        self.whole_vectors(output)?;
        let entries = self.plan.weights[table.index()].shape.first().copied().unwrap_or(0);
        self.weight(table, &[entries, self.channels(output)])?;
        let (ids, rows) = (self.value(ids), &self.value(output).shape);
        if ids.dtype.is_float()
            || ids.shape.dims() != &rows[..rows.len().saturating_sub(1)]
            || ids.shape.first() != Some(&1)
        {
            return self.fail(format!("{}[{}] are no ids of [{rows}]", ids.dtype, ids.shape));
        }
        Ok(())
    }

    fn causal(&self, attention: &CausalKernel) -> Result<(), PlanError> {
        [attention.k, attention.v, attention.output]
            .into_iter()
            .try_for_each(|other| self.alike(attention.q, other))?;
        let (channels, tokens) = (self.channels(attention.q), self.value(attention.q).shape.get(1));
        let dim = channels / attention.heads.max(1);
        let fits =
            attention.heads > 0 && dim * attention.heads == channels && cuda::has_causal(dim, *tokens.unwrap_or(&0));
        match fits && self.value(attention.q).shape.len() == 3 {
            true => Ok(()),
            false => self.fail("there is no causal attention kernel for its heads"),
        }
    }

    fn norm(&self, norm: &NormKernel) -> Result<(), PlanError> {
        let channels = self.channels(norm.output);
        self.whole_vectors(norm.output)?;
        self.vector(norm.gamma, channels)?;
        self.vector(norm.beta, channels)?;
        self.coefficients(norm.output, channels)?;
        self.stats(self.value(norm.stats), channels, norm.groups)
    }

    fn island(&self, call: &IslandCall) -> Result<(), PlanError> {
        let island = &self.plan.islands[call.island.index()];
        for (ids, ports) in [(&call.inputs, &island.inputs), (&call.outputs, &island.outputs)] {
            self.equal(ids.len(), ports.len(), "island operands")?;
            for (id, port) in ids.iter().zip(ports) {
                let value = self.value(*id);
                if value.extent != Extent::Full {
                    return self.fail(format!("`{}` of an island must be full", port.name));
                }
                // tokens and maps are one layout
                let fits = |dtype: DType, shape: &Shape| {
                    let is_view = rows(shape) == rows(&port.shape) && shape.last() == port.shape.last();
                    dtype == port.dtype && is_view && shape.first() == port.shape.first()
                };
                let as_device_rows = value.dtype.is_float() && fits(DType::F16, &cuda::padded_rows(&value.shape));
                if !(fits(value.dtype, &value.shape) || self.plan.is_cuda() && as_device_rows) {
                    return self.fail(format!(
                        "`{}` is {}[{}], the value {}[{}]",
                        port.name, port.dtype, port.shape, value.dtype, value.shape
                    ));
                }
            }
        }
        Ok(())
    }

    fn conv(&self, conv: &ConvKernel) -> Result<(), PlanError> {
        if !(1..=2).contains(&conv.sources.len()) {
            return self.fail("a convolution reads one or two maps");
        }
        for source in &conv.sources {
            self.map(source.value, conv.input_size)?;
            self.outside(source.value, source.outside)?;
        }
        self.map(conv.output, conv.output_size)?;
        let channels: usize = conv.sources.iter().map(|source| self.channels(source.value)).sum();
        if conv.coefficients.is_some() || conv.sources.len() > 1 {
            conv.sources
                .iter()
                .try_for_each(|source| self.whole_vectors(source.value))?;
        }
        let outputs = self.channels(conv.output);
        let [kh, kw] = conv.kernel;
        let parts: Vec<usize> = conv.sources.iter().map(|source| self.channels(source.value)).collect();
        self.product(conv.weight, [kh, kw], &parts, outputs)?;
        self.by_parity(conv, &parts, outputs)?;
        conv.bias.map_or(Ok(()), |bias| self.vector(bias, outputs))?;
        conv.coefficients.map_or(Ok(()), |id| self.coefficients(id, channels))?;
        conv.residual
            .map_or(Ok(()), |residual| self.residual(residual.value, conv.output))?;
        if let Some(vector) = conv.vector {
            self.equal(self.channels(vector), outputs, "channels of the added vector")?;
        }
        self.window(conv)?;
        if conv
            .candidates
            .iter()
            .any(|candidate| candidate.tile.height == 0 || candidate.tile.width == 0)
        {
            return self.fail("a tile size is zero");
        }
        Ok(())
    }

    /// Weights by parity are for a 3×3 window over a map of exactly twice the size.
    fn by_parity(&self, conv: &ConvKernel, parts: &[usize], outputs: usize) -> Result<(), PlanError> {
        let Some(weight) = conv.by_parity else { return Ok(()) };
        let doubled = conv.input_size.map(|side| side.saturating_mul(2));
        let window = ([3; 2], [1; 2], [1; 2]);
        if (conv.kernel, conv.stride, conv.padding) != window
            || conv.upsample != Some(doubled)
            || conv.output_size != doubled
        {
            return self.fail("weights by parity are for a 3x3 window over a doubled map");
        }
        match self.plan.is_cuda() {
            true => self.product(weight, [4, 4], parts, outputs),
            false if weight == conv.weight => Ok(()),
            false => self.fail("its weights by parity are not its weights"),
        }
    }

    /// The last output pixel's window begins inside the padded input.
    fn window(&self, conv: &ConvKernel) -> Result<(), PlanError> {
        let size = conv.upsample.unwrap_or(conv.input_size);
        for (axis, size) in size.into_iter().enumerate() {
            let (kernel, stride, padding) = (conv.kernel[axis], conv.stride[axis], conv.padding[axis]);
            if stride == 0 || padding >= kernel {
                return self.fail("kernel, stride or padding is not plausible");
            }
            let last = conv.output_size[axis].saturating_sub(1).checked_mul(stride);
            if last.is_none_or(|start| start >= size.saturating_add(padding)) {
                return self.fail("the output is larger than the input gives");
            }
        }
        Ok(())
    }

    fn map(&self, id: ValueId, size: [usize; 2]) -> Result<(), PlanError> {
        let shape = &self.value(id).shape;
        let pixels = size[0].checked_mul(size[1]);
        let fits = match shape.dims() {
            [_, height, width, _] => [*height, *width] == size,
            [_, tokens, _] => Some(*tokens) == pixels,
            _ => false,
        };
        if fits {
            return Ok(());
        }
        self.fail(format!("[{shape}] is no map of {}x{} pixels", size[0], size[1]))
    }

    fn linear(&self, linear: &LinearKernel) -> Result<(), PlanError> {
        let inputs = self.channels(linear.input);
        self.whole_vectors(linear.input)?;
        self.whole_vectors(linear.output)?;
        let mut outputs = self.channels(linear.output) * if linear.geglu { 2 } else { 1 };
        if !linear.siblings.is_empty() && (!self.plan.is_cuda() || linear.geglu || linear.residual.is_some()) {
            return self.fail("a product with several results is for a device, without residual or gate");
        }
        for &sibling in &linear.siblings {
            self.whole_vectors(sibling)?;
            self.same_rows(linear.input, sibling)?;
            outputs += self.channels(sibling);
        }
        self.same_rows(linear.input, linear.output)?;
        match self.plan.is_cuda() {
            true => self.product(linear.weight, [1, 1], &[inputs], outputs)?,
            false => self.weight(linear.weight, &[inputs, outputs])?,
        }
        linear.bias.map_or(Ok(()), |bias| self.vector(bias, outputs))?;
        if let Some((gamma, beta, _)) = linear.layer_norm {
            self.vector(gamma, inputs)?;
            self.vector(beta, inputs)?;
        }
        linear
            .residual
            .map_or(Ok(()), |residual| self.residual(residual.value, linear.output))
    }

    fn attention(&self, attention: &AttentionKernel) -> Result<(), PlanError> {
        self.alike(attention.q, attention.output)?;
        self.alike(attention.k, attention.v)?;
        self.equal(self.channels(attention.k), self.channels(attention.q), "key channels")?;
        self.outside(attention.k, attention.k_outside)?;
        self.outside(attention.v, attention.v_outside)?;
        self.heads(attention.q, attention.heads)
    }

    fn heads(&self, q: ValueId, heads: usize) -> Result<(), PlanError> {
        let dim = self.channels(q) / heads.max(1);
        if self.plan.is_cuda() && !cuda::HEAD_DIMS.contains(&dim) {
            return self.fail(format!("there is no attention kernel for heads of {dim} channels"));
        }
        if heads == 0 || !self.channels(q).is_multiple_of(heads) {
            return self.fail(format!("channels cannot be split into {heads} heads"));
        }
        Ok(())
    }

    fn controlled(&self, attention: &ControlledAttentionKernel) -> Result<(), PlanError> {
        let (q, k) = (attention.q, attention.k);
        self.alike(q, attention.output)?;
        self.alike(k, attention.v)?;
        self.maps([q, k, attention.recorded], attention.heads)?;
        let tokens = self.value(k).shape.get(1).copied().unwrap_or(0);
        let tables = [attention.mapper, attention.blend, attention.weight];
        for (input, id) in ControlInput::ALL.into_iter().zip(tables) {
            let found = &self.value(id).shape;
            if found.dims() != input.dims(tokens) {
                return self.fail(format!("{} is [{found}] for {tokens} tokens", input.name()));
            }
        }
        Ok(())
    }

    /// Probabilities of queries and keys, of whole images.
    fn maps(&self, operands: [ValueId; 3], heads: usize) -> Result<(), PlanError> {
        let [q, k, maps] = operands;
        if !self.plan.is_cuda() || operands.iter().any(|id| self.value(*id).extent != Extent::Full) {
            return self.fail("probabilities are looked at on a device, of whole images");
        }
        self.equal(self.channels(k), self.channels(q), "key channels")?;
        self.heads(q, heads)?;
        if !cuda::has_control(self.channels(q) / heads.max(1)) {
            return self.fail("there is no kernel for probabilities of heads so wide");
        }
        let (&[images, queries, _], &[key_images, tokens, _]) =
            (self.value(q).shape.dims(), self.value(k).shape.dims())
        else {
            return self.fail("queries and keys are tokens");
        };
        self.equal(key_images, images, "images of keys")?;
        if tokens > cuda::CONTROLLED_TOKENS {
            return self.fail(format!("there is no kernel for probabilities of {tokens} tokens"));
        }
        let maps = &self.value(maps).shape;
        let expected = (images - images / 2).checked_mul(heads);
        match maps.dims() {
            &[pairs, rows, columns] if (Some(pairs), rows, columns) == (expected, queries, tokens) => Ok(()),
            _ => self.fail(format!(
                "maps of {queries} queries and {tokens} tokens cannot be [{maps}]"
            )),
        }
    }
}

fn rows(shape: &Shape) -> usize {
    shape.iter().rev().skip(1).product()
}
