//! A U-Net of two levels with every kernel in it.

use std::collections::BTreeMap;

use fisec_plan::*;
use fisec_tensor::{DType, TileSize};
use tempfile::TempDir;

use crate::maker::Maker;

const BATCH: usize = 2;
const LATENT: usize = 3;
const FINE: usize = 4;
const COARSE: usize = 6;
const HEADS: usize = 2;
const GROUPS: usize = 2;
const CONTEXT: [usize; 2] = [5, 7];
const FULL: Extent = Extent::Full;

/// Which U-Net.
#[derive(Clone, Debug)]
pub struct Spec {
    pub size: [usize; 2],
    pub keys: Keys,
    pub norm: Norm,
    pub cache_dtype: DType,
    /// 0: no candidates, 1: tiles win, 2: the whole map wins
    pub tile: usize,
}

/// Writes the plan and opens it.
pub fn open(spec: &Spec) -> (TempDir, Bundle) {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("plan");
    let maker = Maker::new(BundleWriter::create(&target).unwrap(), spec.cache_dtype);
    Unet {
        spec: spec.clone(),
        maker,
    }
    .write();
    let bundle = Bundle::open(&target).unwrap();
    (folder, bundle)
}

struct Unet {
    spec: Spec,
    maker: Maker,
}

impl Unet {
    fn size(&self, level: u32) -> [usize; 2] {
        let [height, width] = self.spec.size;
        if level == 0 {
            [height, width]
        } else {
            [height.div_ceil(2), width.div_ceil(2)]
        }
    }

    fn active(&mut self, level: u32, channels: usize) -> ValueId {
        let [height, width] = self.size(level);
        self.maker
            .value(&[BATCH, height, width, channels], Extent::Active(level), Stage::Step)
    }

    fn channels(&self, id: ValueId) -> usize {
        *self.maker.shape(id).last().unwrap()
    }

    /// An active map with the slot that stands outside.
    fn source(&mut self, value: ValueId) -> ConvSource {
        ConvSource {
            value,
            outside: Some(self.maker.slot(value)),
        }
    }

    fn conv(&mut self, sources: Vec<ConvSource>, levels: [u32; 2], columns: usize) -> ConvKernel {
        let channels: usize = sources.iter().map(|source| self.channels(source.value)).sum();
        let output = self.active(levels[1], columns);
        let weight = self.maker.weight(&[3, 3, channels, columns]);
        let upsample = (levels[0] > levels[1]).then(|| self.size(levels[1]));
        let is_doubled = upsample == Some(self.size(levels[0]).map(|side| 2 * side));
        ConvKernel {
            sources,
            input_size: self.size(levels[0]),
            upsample,
            output_size: self.size(levels[1]),
            weight,
            by_parity: is_doubled.then_some(weight),
            bias: Some(self.maker.weight(&[columns])),
            kernel: [3, 3],
            stride: if levels[0] < levels[1] { [2, 2] } else { [1, 1] },
            padding: [1, 1],
            coefficients: None,
            silu: false,
            vector: None,
            residual: None,
            output,
            candidates: self.candidates(),
        }
    }

    fn candidates(&self) -> Vec<TileCandidate> {
        let tiles = match self.spec.tile {
            0 => return Vec::new(),
            1 => [TileSize::PIXEL, TileSize::new(2, 3)],
            _ => [TileSize::PIXEL, TileSize::new(64, 64)],
        };
        let candidate = |(index, tile)| TileCandidate {
            tile,
            bytes: 1.0,
            macs: 1.0,
            cost: TileCost {
                t0: if index == 0 { 1e9 } else { 1.0 },
                beta: 0.1,
                theta: 1.0,
            },
        };
        tiles.into_iter().enumerate().map(candidate).collect()
    }

    fn push_conv(&mut self, conv: ConvKernel) -> ValueId {
        let output = conv.output;
        self.maker.node(Kernel::Conv(conv));
        output
    }

    /// Scale and shift of a group norm, by the plan's choice of statistics.
    fn norm(&mut self, source: ConvSource) -> ValueId {
        let channels = self.channels(source.value);
        let stats = self.maker.value(&[BATCH, GROUPS, 2], FULL, Stage::Step);
        match self.spec.norm {
            Norm::Frozen => {
                let slot = self.maker.stats_slot(GROUPS, BATCH);
                self.maker.node(Kernel::ReadSlot { slot, output: stats });
            }
            Norm::Updated => {
                let recorded_stats = self.maker.stats_slot(GROUPS, BATCH);
                self.maker.node(Kernel::GroupNormStatsUpdate(StatsUpdate {
                    input: source.value,
                    recorded: source.outside.unwrap(),
                    recorded_stats,
                    groups: GROUPS,
                    output: stats,
                }));
            }
            Norm::Live => self.maker.node(Kernel::GroupNormStats {
                input: source,
                groups: GROUPS,
                output: stats,
            }),
        }
        let output = self.maker.value(&[BATCH, 2, channels], FULL, Stage::Step);
        let norm = NormKernel {
            stats,
            gamma: self.maker.weight(&[channels]),
            beta: self.maker.weight(&[channels]),
            groups: GROUPS,
            epsilon: 1e-5,
            output,
        };
        self.maker.node(Kernel::NormCoefficients(norm));
        output
    }

    fn linear(&mut self, input: ValueId, columns: usize, change: impl FnOnce(&mut LinearKernel)) -> ValueId {
        let inner = self.channels(input);
        let mut dims = self.maker.shape(input).to_vec();
        *dims.last_mut().unwrap() = columns;
        let like = self.maker.values[input.index()].clone();
        let output = self.maker.value(&dims, like.extent, like.stage);
        let mut linear = LinearKernel {
            input,
            layer_norm: None,
            weight: WeightId(0),
            bias: Some(self.maker.weight(&[columns])),
            geglu: false,
            residual: None,
            output,
            siblings: Vec::new(),
        };
        change(&mut linear);
        let width = if linear.geglu { 2 * columns } else { columns };
        linear.weight = self.maker.weight(&[inner, width]);
        if linear.geglu {
            linear.bias = Some(self.maker.weight(&[width]));
        }
        self.maker.node(Kernel::Linear(linear));
        output
    }

    /// Self-attention, cross-attention and a gated feed-forward at the coarse level.
    fn transformer(&mut self, x: ValueId, context: ValueId) -> ValueId {
        let (gamma, beta) = (self.maker.weight(&[COARSE]), self.maker.weight(&[COARSE]));
        let normed = self.active(1, COARSE);
        self.maker.node(Kernel::LayerNorm {
            input: x,
            gamma,
            beta,
            epsilon: 1e-5,
            output: normed,
        });
        let [q, k, v] = [(); 3].map(|()| self.linear(normed, COARSE, |_| ()));
        let keeps_context = self.spec.keys == Keys::Full;
        let k_outside = keeps_context.then(|| self.maker.slot(k));
        let v_outside = keeps_context.then(|| self.maker.slot(v));
        let attended = self.attention(q, (k, k_outside), (v, v_outside));
        let x = self.linear(attended, COARSE, |linear| {
            linear.residual = Some(ResidualSource { value: x })
        });

        let q = self.linear(x, COARSE, |linear| linear.layer_norm = Some((gamma, beta, 1e-5)));
        let [k, v] = [(); 2].map(|()| self.linear(context, COARSE, |_| ()));
        let attended = self.attention(q, (k, None), (v, None));
        let added = self.active(1, COARSE);
        self.maker.node(Kernel::Add {
            a: attended,
            b: ResidualSource { value: x },
            output: added,
        });

        let hidden = self.linear(added, 2 * COARSE, |linear| linear.geglu = true);
        let doubled = self.linear(hidden, 2 * COARSE, |_| ());
        let gated = self.active(1, COARSE);
        self.maker.node(Kernel::Geglu {
            input: doubled,
            output: gated,
        });
        self.linear(gated, COARSE, |linear| {
            linear.residual = Some(ResidualSource { value: added })
        })
    }

    fn attention(
        &mut self,
        q: ValueId,
        (k, k_outside): (ValueId, Option<SlotId>),
        (v, v_outside): (ValueId, Option<SlotId>),
    ) -> ValueId {
        let output = self.active(1, COARSE);
        self.maker.node(Kernel::Attention(AttentionKernel {
            q,
            k,
            v,
            k_outside,
            v_outside,
            heads: HEADS,
            scale: 0.7,
            output,
        }));
        output
    }

    fn write(mut self) {
        let [height, width] = self.spec.size;
        let latent = [BATCH, height, width, LATENT];
        let sample = self.maker.input("sample", &latent, Stage::Step);
        let timestep = self.maker.input("timestep", &[BATCH, 1], Stage::Timestep);
        let context = self
            .maker
            .input("context", &[BATCH, CONTEXT[0], CONTEXT[1]], Stage::Prompt);
        let vector = self.time_vector(timestep);

        // the sample is there entirely: its outside is the recorded trajectory
        let full = ConvSource {
            value: sample,
            outside: None,
        };
        let conv_in = self.conv(vec![full], [0, 0], FINE);
        let a = self.push_conv(conv_in);
        let source_a = self.source(a);
        let coefficients = self.norm(source_a);
        let conv = self.conv(vec![source_a], [0, 0], FINE);
        let conv = ConvKernel {
            coefficients: Some(coefficients),
            silu: true,
            vector: Some(vector),
            ..conv
        };
        let b = self.push_conv(conv);
        let source_b = self.source(b);
        let down = self.conv(vec![source_b], [0, 1], COARSE);
        let c = self.push_conv(down);
        let d = self.transformer(c, context);
        let source_d = self.source(d);
        let up = self.conv(vec![source_d], [1, 0], FINE);
        let e = self.push_conv(up);
        let source_e = self.source(e);
        let skip = self.conv(vec![source_e, source_b], [0, 0], FINE);
        let f = self.push_conv(ConvKernel {
            residual: Some(ResidualSource { value: b }),
            silu: true,
            ..skip
        });
        let g = self.pointwise(f, sample);
        let source_g = self.source(g);
        let out = self.conv(vec![source_g], [0, 0], LATENT);
        let rows = self.push_conv(out);
        let prediction = self.maker.value(&latent, FULL, Stage::Step);
        self.maker.node(Kernel::Scatter {
            rows,
            base: None,
            output: prediction,
        });
        self.finish(prediction, sample);
    }

    /// A table per schedule: SiLU and a linear of the timestep.
    fn time_vector(&mut self, timestep: ValueId) -> ValueId {
        let stage = Stage::Timestep;
        let active = self.maker.value(&[BATCH, 1], FULL, stage);
        self.maker.node(Kernel::Silu {
            input: timestep,
            output: active,
        });
        self.linear(active, FINE, |_| ())
    }

    /// Elementwise kernels, a concatenation, a 1×1 convolution, a scatter over a slot, and a gather from a full map.
    fn pointwise(&mut self, x: ValueId, sample: ValueId) -> ValueId {
        let gathered = self.active(0, LATENT);
        self.maker.node(Kernel::Gather {
            input: sample,
            output: gathered,
        });
        let both = self.active(0, FINE + LATENT);
        self.maker.node(Kernel::Concat {
            inputs: vec![x, gathered],
            output: both,
        });
        let coefficients = {
            let slot = self.maker.slot(both);
            self.norm_of(ConvSource {
                value: both,
                outside: Some(slot),
            })
        };
        let scaled = self.active(0, FINE + LATENT);
        self.maker.node(Kernel::Affine {
            input: both,
            coefficients,
            silu: true,
            output: scaled,
        });
        let source = ConvSource {
            value: scaled,
            outside: None,
        };
        let one = self.conv(vec![source], [0, 0], FINE);
        let weight = self.maker.weight(&[1, 1, FINE + LATENT, FINE]);
        let mixed = self.push_conv(ConvKernel {
            weight,
            kernel: [1, 1],
            padding: [0, 0],
            ..one
        });

        let slot = self.maker.slot(mixed);
        let [height, width] = self.spec.size;
        let whole = self.maker.value(&[BATCH, height, width, FINE], FULL, Stage::Step);
        self.maker.node(Kernel::Scatter {
            rows: mixed,
            base: Some(slot),
            output: whole,
        });
        // a dense convolution of the whole map, read back at the active pixels as residual
        let conv = self.conv(
            vec![ConvSource {
                value: whole,
                outside: None,
            }],
            [0, 0],
            FINE,
        );
        let dense = self.maker.value(&[BATCH, height, width, FINE], FULL, Stage::Step);
        let dense = self.push_conv(ConvKernel {
            output: dense,
            candidates: Vec::new(),
            ..conv
        });
        let summed = self.active(0, FINE);
        self.maker.node(Kernel::Add {
            a: mixed,
            b: ResidualSource { value: dense },
            output: summed,
        });
        self.linear(summed, FINE, |linear| {
            linear.residual = Some(ResidualSource { value: dense })
        })
    }

    /// Coefficients for one group: any number of channels.
    fn norm_of(&mut self, source: ConvSource) -> ValueId {
        let channels = self.channels(source.value);
        let stats = self.maker.value(&[BATCH, 1, 2], FULL, Stage::Step);
        self.maker.node(Kernel::GroupNormStats {
            input: source,
            groups: 1,
            output: stats,
        });
        let output = self.maker.value(&[BATCH, 2, channels], FULL, Stage::Step);
        let norm = NormKernel {
            stats,
            gamma: self.maker.weight(&[channels]),
            beta: self.maker.weight(&[channels]),
            groups: 1,
            epsilon: 1e-5,
            output,
        };
        self.maker.node(Kernel::NormCoefficients(norm));
        output
    }

    fn finish(self, prediction: ValueId, sample: ValueId) {
        let edit = self.maker.program(prediction);
        let levels = [0, 1].map(|level| {
            let [height, width] = self.size(level);
            Level {
                height,
                width,
                around: None,
                sparse: true,
                reason: "test".into(),
            }
        });
        let [height, width] = self.spec.size;
        let identity = Program {
            values: vec![self.maker.values[sample.index()].clone()],
            inputs: BTreeMap::from([("sample".into(), ValueId(0))]),
            outputs: BTreeMap::from([("prediction".into(), ValueId(0))]),
            nodes: Vec::new(),
        };
        // every slot must be recorded: this program takes them as inputs and writes them
        let mut record = identity.clone();
        for (index, slot) in self.maker.slots.iter().enumerate() {
            let value = Value {
                dtype: DType::F32,
                shape: slot.shape.clone(),
                extent: FULL,
                stage: Stage::Step,
            };
            record.values.push(value);
            let id = ValueId(index as u32 + 1);
            record.inputs.insert(format!("slot{index}"), id);
            record.nodes.push(Node {
                name: format!("write{index}"),
                kernel: Kernel::WriteSlot {
                    input: id,
                    slot: SlotId(index as u32),
                },
                stage: Stage::Step,
                provenance: Provenance::default(),
                macs_dense: 0,
                macs_predicted: [0; 3],
            });
        }
        let plan = Plan {
            format: FORMAT,
            fisec: "test".into(),
            target: "cpu".into(),
            model: "two levels".into(),
            model_hash: String::new(),
            batch: BATCH,
            latent: [LATENT, height, width],
            context: CONTEXT,
            options: CompileOptions {
                keys: self.spec.keys,
                norm: self.spec.norm,
                sparse_levels: None,
                cache_dtype: self.spec.cache_dtype,
                control_levels: Some(0),
                samples: fisec_plan::Samples::Each,
                remainder: fisec_plan::Remainder::Native,
                halos: fisec_plan::Halos::Recorded,
            },
            levels: levels.to_vec(),
            slots: self.maker.slots.clone(),
            weights: Vec::new(),
            islands: Vec::new(),
            programs: Programs {
                record,
                guide: identity,
                edit: Some(edit),
            },
            networks: Default::default(),
            prompt: None,
            break_even: 0.5,
            modules: Default::default(),
            pipeline: None,
            files: BTreeMap::new(),
        };
        self.maker.writer.finish(plan).unwrap();
    }
}
