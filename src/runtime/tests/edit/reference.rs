//! A dense interpreter of a plan's `edit` program: whole maps, every pixel, `where(active, fresh, recorded)`. Outside
//! its active set a value is NaN, so that a result that depends on it shows.

use std::collections::HashMap;

use fisec_plan::*;
use fisec_tensor::Mask;

/// What the program should compute.
pub struct Expected {
    /// rows `[N, H * W, C]`, zero outside the mask
    pub prediction: Vec<f32>,
    /// slots of the edited image
    pub slots: HashMap<SlotId, Vec<f32>>,
}

struct State<'a> {
    bundle: &'a Bundle,
    program: &'a Program,
    masks: Vec<Mask>,
    values: HashMap<ValueId, Vec<f32>>,
    slot: &'a dyn Fn(SlotId) -> Vec<f32>,
    slots: HashMap<SlotId, Vec<f32>>,
}

pub fn evaluate(
    bundle: &Bundle,
    mask: &Mask,
    inputs: &HashMap<&str, Vec<f32>>,
    slot: &dyn Fn(SlotId) -> Vec<f32>,
) -> Expected {
    let program = bundle.plan().programs.edit.as_ref().unwrap();
    let mut masks = vec![mask.clone()];
    for _ in 1..bundle.plan().levels.len() {
        masks.push(masks.last().unwrap().pooled());
    }
    let values = program
        .inputs
        .iter()
        .map(|(name, id)| (*id, inputs[name.as_str()].clone()))
        .collect();
    let unchanged = (0..bundle.plan().slots.len() as u32).map(|index| (SlotId(index), slot(SlotId(index))));
    let slots = unchanged.collect();
    let mut state = State {
        bundle,
        program,
        masks,
        values,
        slot,
        slots,
    };
    for node in &program.nodes {
        state.node(&node.kernel);
    }
    let prediction = state.values[&program.outputs["prediction"]].clone();
    Expected {
        prediction,
        slots: state.slots,
    }
}

pub fn rows_of_planes(planes: &[f32], images: usize, channels: usize) -> Vec<f32> {
    let pixels = planes.len() / images / channels;
    (0..planes.len())
        .map(|i| planes[(i / channels / pixels * channels + i % channels) * pixels + i / channels % pixels])
        .collect()
}

pub fn planes_of_rows(rows: &[f32], images: usize, channels: usize) -> Vec<f32> {
    let pixels = rows.len() / images / channels;
    (0..rows.len())
        .map(|i| rows[(i / pixels / channels * pixels + i % pixels) * channels + i / pixels % channels])
        .collect()
}

fn silu(x: f32) -> f32 {
    (f64::from(x) / (1.0 + (-f64::from(x)).exp())) as f32
}

fn gelu(x: f32) -> f32 {
    let x = f64::from(x);
    let argument = x.abs() / 2f64.sqrt();
    // Simpson's rule on the Gauss integral
    let steps = 2000;
    let width = argument / f64::from(steps);
    let sum: f64 = (0..=steps)
        .map(|i| {
            let factor = if i == 0 || i == steps {
                1.0
            } else if i % 2 == 1 {
                4.0
            } else {
                2.0
            };
            factor * (-(f64::from(i) * width).powi(2)).exp()
        })
        .sum();
    let erf = (sum * width / 3.0 * 2.0 / std::f64::consts::PI.sqrt()).copysign(x);
    (0.5 * x * (1.0 + erf)) as f32
}

impl State<'_> {
    fn channels(&self, id: ValueId) -> usize {
        *self.program.values[id.index()].shape.last().unwrap()
    }

    fn images(&self, id: ValueId) -> usize {
        self.program.values[id.index()].shape[0]
    }

    fn is_active(&self, id: ValueId, row: usize) -> bool {
        match self.program.values[id.index()].extent {
            Extent::Full => true,
            Extent::Active(level) => {
                let bits = self.masks[level as usize].bits();
                bits[row % bits.len()]
            }
        }
    }

    fn weight(&self, id: WeightId) -> Vec<f32> {
        self.bundle.weight(id).unwrap().to_f32_vec()
    }

    /// The value with the recorded one outside; the merged map is what the edited image's slot holds.
    fn merged(&mut self, id: ValueId, outside: Option<SlotId>) -> Vec<f32> {
        let fresh = self.values[&id].clone();
        let Some(slot) = outside else { return fresh };
        let recorded = (self.slot)(slot);
        let channels = self.channels(id);
        let merged: Vec<f32> = (0..fresh.len())
            .map(|i| {
                if self.is_active(id, i / channels) {
                    fresh[i]
                } else {
                    recorded[i]
                }
            })
            .collect();
        self.slots.insert(slot, merged.clone());
        merged
    }

    fn set(&mut self, id: ValueId, mut values: Vec<f32>) {
        let channels = self.channels(id);
        for (i, value) in values.iter_mut().enumerate() {
            if !self.is_active(id, i / channels) {
                *value = f32::NAN;
            }
        }
        self.values.insert(id, values);
    }

    fn node(&mut self, kernel: &Kernel) {
        match kernel {
            Kernel::Conv(conv) => self.conv(conv),
            Kernel::Linear(linear) => self.linear(linear),
            Kernel::Attention(attention) => self.attention(attention),
            Kernel::LayerNorm {
                input,
                gamma,
                beta,
                epsilon,
                output,
            } => {
                let rows = self.layer_norm(*input, (*gamma, *beta, *epsilon));
                self.set(*output, rows);
            }
            Kernel::Geglu { input, output } => {
                let rows = geglu(&self.values[input], self.channels(*output));
                self.set(*output, rows);
            }
            Kernel::Silu { input, output } => {
                let rows = self.values[input].iter().map(|&x| silu(x)).collect();
                self.set(*output, rows);
            }
            Kernel::Add { a, b, output } => {
                let rows = self.values[a]
                    .iter()
                    .zip(&self.values[&b.value])
                    .map(|(a, b)| a + b)
                    .collect();
                self.set(*output, rows);
            }
            Kernel::GroupNormStats { input, groups, output } => {
                let map = self.merged(input.value, input.outside);
                let stats = statistics(&map, self.images(input.value), self.channels(input.value), *groups);
                self.set(*output, stats.iter().flat_map(|s| [s.0 as f32, s.1 as f32]).collect());
            }
            Kernel::GroupNormStatsUpdate(update) => self.update(update),
            Kernel::NormCoefficients(norm) => self.coefficients(norm),
            Kernel::Affine {
                input,
                coefficients,
                silu: is_silu,
                output,
            } => {
                let channels = self.channels(*input);
                let rows = self.affine(
                    &self.values[input],
                    self.images(*input),
                    channels,
                    Some(*coefficients),
                    *is_silu,
                );
                self.set(*output, rows);
            }
            Kernel::Concat { inputs, output } => {
                let maps: Vec<(&Vec<f32>, usize)> =
                    inputs.iter().map(|id| (&self.values[id], self.channels(*id))).collect();
                let count = maps[0].0.len() / maps[0].1;
                let mut rows = Vec::new();
                for row in 0..count {
                    for (map, channels) in &maps {
                        rows.extend_from_slice(&map[row * channels..(row + 1) * channels]);
                    }
                }
                self.set(*output, rows);
            }
            Kernel::ReadSlot { slot, output } => {
                let value = (self.slot)(*slot);
                self.set(*output, value);
            }
            Kernel::Gather { input, output } => {
                let value = self.values[input].clone();
                self.set(*output, value);
            }
            Kernel::Scatter { rows, base, output } => {
                let mut value = self.merged(*rows, *base);
                let channels = self.channels(*rows);
                for (i, value) in value.iter_mut().enumerate() {
                    if base.is_none() && !self.is_active(*rows, i / channels) {
                        *value = 0.0;
                    }
                }
                self.set(*output, value);
            }
            Kernel::Island(_)
            | Kernel::WriteSlot { .. }
            | Kernel::Repeat { .. }
            | Kernel::Gelu { .. }
            | Kernel::Lookup { .. }
            | Kernel::AddConstant { .. }
            | Kernel::CausalAttention(_)
            | Kernel::ControlledAttention(_)
            | Kernel::AttentionMaps(_) => {
                unreachable!("not in these plans")
            }
        }
    }

    fn affine(
        &self,
        map: &[f32],
        images: usize,
        channels: usize,
        coefficients: Option<ValueId>,
        is_silu: bool,
    ) -> Vec<f32> {
        let per_image = map.len() / images;
        map.iter()
            .enumerate()
            .map(|(i, &x)| {
                let x = coefficients.map_or(x, |id| {
                    let at = i / per_image * 2 * channels + i % channels;
                    x * self.values[&id][at] + self.values[&id][at + channels]
                });
                if is_silu { silu(x) } else { x }
            })
            .collect()
    }

    fn conv(&mut self, conv: &ConvKernel) {
        let images = self.images(conv.output);
        let maps: Vec<(Vec<f32>, usize)> = conv
            .sources
            .iter()
            .map(|source| (self.merged(source.value, source.outside), self.channels(source.value)))
            .collect();
        let channels: usize = maps.iter().map(|(_, channels)| channels).sum();
        let rows = images * conv.input_size[0] * conv.input_size[1];
        let input: Vec<f32> = (0..rows)
            .flat_map(|row| {
                maps.iter()
                    .flat_map(move |(map, width)| map[row * width..(row + 1) * width].to_vec())
            })
            .collect();
        let input = self.affine(&input, images, channels, conv.coefficients, conv.silu);
        let weight = self.weight(conv.weight);
        let bias = conv.bias.map(|bias| self.weight(bias));
        let columns = self.channels(conv.output);
        let size = conv.upsample.unwrap_or(conv.input_size);
        let pixels = conv.output_size[0] * conv.output_size[1];
        let mut output = Vec::new();
        for row in 0..images * pixels {
            let (image, y, x) = (
                row / pixels,
                row % pixels / conv.output_size[1],
                row % conv.output_size[1],
            );
            let mut sums = vec![0.0f64; columns];
            for (tap, (ky, kx)) in (0..conv.kernel[0])
                .flat_map(|ky| (0..conv.kernel[1]).map(move |kx| (ky, kx)))
                .enumerate()
            {
                let (y, x) = (y * conv.stride[0] + ky, x * conv.stride[1] + kx);
                let Some(y) = y.checked_sub(conv.padding[0]).filter(|&y| y < size[0]) else {
                    continue;
                };
                let Some(x) = x.checked_sub(conv.padding[1]).filter(|&x| x < size[1]) else {
                    continue;
                };
                let (y, x) = (y * conv.input_size[0] / size[0], x * conv.input_size[1] / size[1]);
                let at = (image * conv.input_size[0] + y) * conv.input_size[1] + x;
                for channel in 0..channels {
                    let value = f64::from(input[at * channels + channel]);
                    for (column, sum) in sums.iter_mut().enumerate() {
                        *sum += value * f64::from(weight[(tap * channels + channel) * columns + column]);
                    }
                }
            }
            output.extend(sums.iter().enumerate().map(|(column, sum)| {
                let mut value = *sum as f32 + bias.as_ref().map_or(0.0, |bias| bias[column]);
                value += conv.vector.map_or(0.0, |id| self.values[&id][image * columns + column]);
                value
                    + conv
                        .residual
                        .map_or(0.0, |residual| self.values[&residual.value][row * columns + column])
            }));
        }
        self.set(conv.output, output);
    }

    fn layer_norm(&self, input: ValueId, (gamma, beta, epsilon): (WeightId, WeightId, f64)) -> Vec<f32> {
        let (gamma, beta) = (self.weight(gamma), self.weight(beta));
        let channels = gamma.len();
        self.values[&input]
            .chunks(channels)
            .flat_map(|row| {
                let mean = row.iter().map(|&x| f64::from(x)).sum::<f64>() / channels as f64;
                let variance = row.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / channels as f64;
                let factor = 1.0 / (variance + epsilon).sqrt();
                let normed = row.iter().map(|&x| (f64::from(x) - mean) * factor);
                let scaled = normed
                    .zip(gamma.iter().zip(&beta))
                    .map(|(x, (g, b))| (x * f64::from(*g)) as f32 + b);
                scaled.collect::<Vec<_>>()
            })
            .collect()
    }

    fn linear(&mut self, linear: &LinearKernel) {
        let input = match linear.layer_norm {
            Some(norm) => self.layer_norm(linear.input, norm),
            None => self.values[&linear.input].clone(),
        };
        let weight = self.weight(linear.weight);
        let inner = self.channels(linear.input);
        let columns = weight.len() / inner;
        let bias = linear.bias.map(|bias| self.weight(bias));
        let mut rows: Vec<f32> = input
            .chunks(inner)
            .flat_map(|row| {
                let (weight, bias) = (&weight, &bias);
                (0..columns).map(move |column| {
                    let terms = row.iter().enumerate();
                    let sum: f64 = terms
                        .map(|(i, &x)| f64::from(x) * f64::from(weight[i * columns + column]))
                        .sum();
                    sum as f32 + bias.as_ref().map_or(0.0, |bias| bias[column])
                })
            })
            .collect();
        if linear.geglu {
            rows = geglu(&rows, columns / 2);
        }
        if let Some(residual) = linear.residual {
            let added = &self.values[&residual.value];
            rows.iter_mut().zip(added).for_each(|(row, added)| *row += added);
        }
        self.set(linear.output, rows);
    }

    fn attention(&mut self, attention: &AttentionKernel) {
        let k = self.merged(attention.k, attention.k_outside);
        let v = self.merged(attention.v, attention.v_outside);
        let q = self.values[&attention.q].clone();
        let (images, channels) = (self.images(attention.q), self.channels(attention.q));
        let width = channels / attention.heads;
        let (queries, keys) = (q.len() / images / channels, k.len() / images / channels);
        let mut output = vec![0.0; q.len()];
        for row in 0..images * queries {
            let image = row / queries;
            for head in 0..attention.heads {
                let taking_part: Vec<usize> = (image * keys..(image + 1) * keys)
                    .filter(|&key| attention.k_outside.is_some() || self.is_active(attention.k, key))
                    .collect();
                let columns = head * width..(head + 1) * width;
                let score = |key: usize| {
                    let terms = columns
                        .clone()
                        .map(|c| f64::from(q[row * channels + c] * k[key * channels + c]));
                    (terms.sum::<f64>() * attention.scale).exp()
                };
                let weights: Vec<f64> = taking_part.iter().map(|&key| score(key)).collect();
                let total: f64 = weights.iter().sum();
                for column in columns.clone() {
                    let values = taking_part.iter().map(|&key| f64::from(v[key * channels + column]));
                    let sum: f64 = values.zip(&weights).map(|(value, weight)| value * weight).sum();
                    output[row * channels + column] = (sum / total) as f32;
                }
            }
        }
        self.set(attention.output, output);
    }

    fn update(&mut self, update: &StatsUpdate) {
        let (images, channels) = (self.images(update.input), self.channels(update.input));
        let recorded = (self.slot)(update.recorded);
        let merged = self.merged(update.input, Some(update.recorded));
        let old = statistics(&recorded, images, channels, update.groups);
        let new = statistics(&merged, images, channels, update.groups);
        let given = (self.slot)(update.recorded_stats);
        // the recorded statistics are taken at their word: sums change by what the maps' sums change
        let stats: Vec<f32> = given
            .chunks(2)
            .zip(old.iter().zip(&new))
            .flat_map(|(given, (old, new))| {
                let (mean, variance) = (f64::from(given[0]), f64::from(given[1]));
                let updated_mean = mean + new.0 - old.0;
                let square = variance + mean * mean + (new.1 + new.0 * new.0) - (old.1 + old.0 * old.0);
                [updated_mean as f32, (square - updated_mean * updated_mean) as f32]
            })
            .collect();
        self.slots.insert(update.recorded_stats, stats.clone());
        self.set(update.output, stats);
    }

    fn coefficients(&mut self, norm: &NormKernel) {
        let (gamma, beta) = (self.weight(norm.gamma), self.weight(norm.beta));
        let (channels, stats) = (gamma.len(), self.values[&norm.stats].clone());
        let images = stats.len() / 2 / norm.groups;
        let mut output = vec![0.0; images * 2 * channels];
        for (image, channel) in (0..images).flat_map(|image| (0..channels).map(move |channel| (image, channel))) {
            let at = (image * norm.groups + channel / (channels / norm.groups)) * 2;
            let scale = f64::from(gamma[channel]) / (f64::from(stats[at + 1]) + norm.epsilon).sqrt();
            output[image * 2 * channels + channel] = scale as f32;
            output[(image * 2 + 1) * channels + channel] =
                (f64::from(beta[channel]) - f64::from(stats[at]) * scale) as f32;
        }
        self.set(norm.output, output);
    }
}

fn geglu(rows: &[f32], channels: usize) -> Vec<f32> {
    rows.chunks(2 * channels)
        .flat_map(|row| {
            (0..channels)
                .map(|c| row[c] * gelu(row[c + channels]))
                .collect::<Vec<_>>()
        })
        .collect()
}

/// Mean and biased variance per image and group.
fn statistics(map: &[f32], images: usize, channels: usize, groups: usize) -> Vec<(f64, f64)> {
    let per_image = map.len() / images;
    (0..images * groups)
        .map(|index| {
            let (image, group) = (index / groups, index % groups);
            let values: Vec<f64> = (0..per_image)
                .filter(|i| i % channels / (channels / groups) == group)
                .map(|i| f64::from(map[image * per_image + i]))
                .collect();
            let mean = values.iter().sum::<f64>() / values.len() as f64;
            (
                mean,
                values.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / values.len() as f64,
            )
        })
        .collect()
}
