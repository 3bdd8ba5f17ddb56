//! A compiled pipeline: words in, image out.

mod compare;
mod decode;
mod picture;
mod prompt;

use std::io::{BufRead, Seek};
use std::ops::ControlFlow;
use std::time::Instant;

use fisec_plan::{Bundle, NetworkKind, PipelineFiles, Plan};
use fisec_runtime::ort::OnnxRuntime;
use fisec_runtime::{SlotSink, SlotSource};
use fisec_tensor::{HostTensor, Mask};

use crate::denoise::{self, Base, Conditions, EditOptions, Edited, NO_GUIDANCE, Outcome};
use crate::mask::{fit_user_mask, read_user_mask};
use crate::samplers::{Sampler, SamplerConfig, SamplerKind};
use crate::words::{Alignment, ControlOptions, Words};
use crate::{
    DiffusionError, Event, Image, Notice, Observer, Phase, PlanDenoiser, TextEncoder, Timings, Tokenizer, Trajectory,
    VaeDecoder, VaeEncoder, Work, emphasised, guidance_context, noise,
};

use crate::network::NetworkFiles;
use decode::Ahead;
use prompt::{Prompt, PromptTokens};

/// What to make.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// what to see
    pub prompt: String,
    /// what not to see; may be empty, and has no effect without guidance
    pub negative: String,
    /// noise: torch's CPU generator
    pub seed: u64,
    /// steps of the schedule, 1 to the model's training timesteps
    pub steps: usize,
    /// factor of classifier-free guidance; at or below 1 there is none
    pub guidance: f32,
    /// the model's own when absent
    pub sampler: Option<SamplerKind>,
}

impl Request {
    /// Whether the negative prompt has an effect.
    pub fn is_guided(&self) -> bool {
        // what is no number is not off, but refused
        self.guidance > NO_GUIDANCE || self.guidance.is_nan()
    }

    /// The same request in the one form that it has without guidance, guidance 1 and no negative prompt, so that equal
    /// images have equal settings; with what to say when that changes it.
    pub fn settled(self) -> (Self, Option<Notice>) {
        if self.is_guided() || !self.guidance.is_finite() {
            return (self, None);
        }
        let settled = Request {
            negative: String::new(),
            guidance: NO_GUIDANCE,
            ..self.clone()
        };
        let notice = (settled != self).then_some(Notice::NoGuidance {
            guidance: self.guidance,
            negative: self.negative,
        });
        (settled, notice)
    }
}

/// A remembered image to edit.
#[derive(Clone, Copy)]
pub struct BaseImage<'a> {
    /// its prompt
    pub prompt: &'a str,
    /// its latents after every call
    pub trajectory: &'a Trajectory,
    /// its activations
    pub slots: &'a dyn SlotSource,
    /// first calls of which its cross-attention maps are recorded
    pub map_calls: usize,
    /// its pixels; with them, the edit's pixels outside the mask are the same
    pub image: Option<&'a Image>,
    /// norms of its decoder; with them and its pixels, no more than the region is decoded where the plan's device can
    pub norms: Option<&'a HostTensor>,
}

/// A first image.
#[derive(Clone, Debug)]
pub struct Generated {
    /// pixels
    pub image: Image,
    /// norms of its decoder, where edits can use them
    pub norms: Option<HostTensor>,
    /// latents after every call
    pub trajectory: Trajectory,
    /// multiply-accumulates
    pub work: Work,
    /// where the time went
    pub timings: Timings,
}

/// An edited image.
#[derive(Clone, Debug)]
pub struct EditedImage {
    /// pixels; absent when the base is the result ([`Outcome::is_base`])
    pub image: Option<Image>,
    /// norms of its decoder, where edits can use them
    pub norms: Option<HostTensor>,
    /// latents, mask, steps, work and time
    pub edited: Edited,
}

/// A plan with the rest of its pipeline, ready to run. What stays of one image for the next is what would be the same.
pub struct Pipeline {
    denoiser: PlanDenoiser,
    tokenizer: Tokenizer,
    text_encoder: TextEncoder,
    decoder: VaeDecoder,
    /// opened for the first picture
    encoder: Option<VaeEncoder>,
    /// the last negative prompt with its embedding: edits have that of their base
    negative: Option<(String, HostTensor)>,
    scheduler: SamplerConfig,
    files: PipelineFiles,
    bundle: Bundle,
    runtime: OnnxRuntime,
}

impl Pipeline {
    /// Opens everything that `bundle` holds. Fails when it was compiled from a U-Net alone, or for another batch than 1, which
    /// knows no guidance, or 2.
    pub fn open(bundle: &Bundle, runtime: &OnnxRuntime) -> Result<Self, DiffusionError> {
        let plan = bundle.plan();
        let files = plan.pipeline.clone().ok_or(DiffusionError::NoPipeline)?;
        let denoiser = PlanDenoiser::open(bundle, runtime)?;
        let network = |file: &str, kind| denoiser.network(runtime, network_files(bundle, &files, file, kind), kind);
        let text_encoder = TextEncoder::of(network(&files.text_encoder, NetworkKind::TextEncoder)?);
        let decoder = network(&files.vae_decoder, NetworkKind::VaeDecoder)?;
        Ok(Pipeline {
            denoiser,
            tokenizer: Tokenizer::open(&bundle.path(&files.tokenizer), plan.context[0])?,
            text_encoder,
            decoder: VaeDecoder::of(decoder, files.scaling_factor),
            encoder: None,
            negative: None,
            scheduler: SamplerConfig::read(&bundle.path(&files.scheduler))?,
            files,
            bundle: bundle.clone(),
            runtime: runtime.clone(),
        })
    }

    /// The plan.
    pub fn plan(&self) -> &Plan {
        self.bundle.plan()
    }

    /// Rows and columns of the images.
    pub fn image_size(&self) -> (usize, usize) {
        let [_, height, width] = self.plan().latent;
        (height * self.files.vae_scale, width * self.files.vae_scale)
    }

    /// The sampler of a request: its own, else the model's.
    pub fn sampler_kind(&self, request: &Request) -> Result<SamplerKind, DiffusionError> {
        let Some(kind) = request.sampler else {
            return self.scheduler.default_kind();
        };
        self.scheduler.check(kind)?;
        Ok(kind)
    }

    /// Calls of the network that a request takes: what a recording of it holds. PNDM calls once more than it has steps.
    pub fn calls(&self, request: &Request) -> Result<usize, DiffusionError> {
        Ok(self.sampler(request)?.timesteps().len())
    }

    /// A user's mask of any size of the image's aspect ratio, at the latents' size.
    pub fn fit_mask(&self, mask: &Mask) -> Result<Mask, DiffusionError> {
        let [_, height, width] = self.plan().latent;
        fit_user_mask(mask, (height, width), self.image_size())
    }

    /// The same from a PNG, while it is read.
    pub fn read_mask(&self, png: impl BufRead + Seek) -> Result<Mask, DiffusionError> {
        let [_, height, width] = self.plan().latent;
        read_user_mask(png, (height, width), self.image_size())
    }

    /// Makes a first image. With a `sink`, records what edits will need.
    pub fn generate(
        &mut self,
        request: &Request,
        sink: Option<&mut dyn SlotSink>,
        observer: &mut Observer<'_>,
    ) -> Result<Generated, DiffusionError> {
        let started = Instant::now();
        let tokens = self.tokens(request, observer)?;
        let conditions = self.conditions(request, &tokens, observer)?;
        let text = started.elapsed();

        let started = Instant::now();
        let unit = noise::randn(self.plan().latent.iter().product(), request.seed);
        let (trajectory, work) = denoise::generate(&mut self.denoiser, &conditions, &unit, sink, &mut *observer)?;
        let guide = started.elapsed();

        let started = Instant::now();
        let image = self.decode(&trajectory.last_tensor(), observer)?;
        let timings = Timings {
            text,
            guide,
            decode: started.elapsed(),
            ..Timings::default()
        };
        Ok(Generated {
            image,
            norms: self.decoder.network().norms()?,
            trajectory,
            work,
            timings,
        })
    }

    /// Edits a remembered image, made with the same plan, seed, sampler, steps, guidance and negative prompt. With a
    /// `sink`, records the edited image as a base for further edits; throw that away when the outcome is the base.
    pub fn edit(
        &mut self,
        request: &Request,
        base: BaseImage<'_>,
        options: &EditOptions,
        sink: Option<&mut dyn SlotSink>,
        observer: &mut Observer<'_>,
    ) -> Result<EditedImage, DiffusionError> {
        let started = Instant::now();
        let tokens = self.tokens(request, observer)?;
        let old = Prompt::read(base.prompt, &self.tokenizer)?;
        if old.means(&tokens.prompt) {
            tell(observer, Event::Notice(Notice::Unchanged))?;
            return Ok(EditedImage {
                image: None,
                norms: None,
                edited: Edited::unchanged(base.trajectory),
            });
        }
        let conditions = self.conditions(request, &tokens, observer)?;
        let text = started.elapsed();

        let source = Base {
            trajectory: base.trajectory,
            slots: base.slots,
            map_calls: base.map_calls,
        };
        let map_calls = base.map_calls.min(conditions.sampler.timesteps().len());
        let words = self.words(&old, &tokens.prompt, &options.control, map_calls)?;
        let mut ahead = Ahead::new(&mut self.decoder, &base);
        let mut edited = denoise::edit(
            &mut self.denoiser,
            &conditions,
            source,
            &words,
            options,
            sink,
            &mut |event| {
                ahead.on(&event);
                observer(event)
            },
        )?;
        ahead.finish()?;
        edited.timings.text = text;
        let (mut image, mut norms) = (None, None);
        if edited.outcome != Outcome::EmptyMask {
            let started = Instant::now();
            let (decoded, left) = self.decode_edit(&base, &mut edited, options.feather, observer)?;
            (image, norms) = (Some(decoded), left);
            edited.timings.decode = started.elapsed();
        }
        Ok(EditedImage { image, norms, edited })
    }

    /// Puts what the device has kept of an image that `sink` did not [want at once](SlotSink::wants_now).
    pub fn hand_over(
        &mut self,
        request: &Request,
        sink: &mut dyn SlotSink,
        observer: &mut Observer<'_>,
    ) -> Result<(), DiffusionError> {
        let (phase, steps) = (Phase::Remember, self.calls(request)?);
        let mut told = ControlFlow::Continue(());
        let mut progress = |step| {
            told = observer(Event::Step { phase, step, steps });
            told
        };
        self.denoiser.executor().hand_over(sink, &mut progress)?;
        match told {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(DiffusionError::Interrupted),
        }
    }

    /// The latents `[1, C, H, W]` of a picture of [`Pipeline::image_size`].
    pub fn encode(&mut self, image: &Image, observer: &mut Observer<'_>) -> Result<HostTensor, DiffusionError> {
        let (height, width) = self.image_size();
        if (image.height, image.width) != (height, width) {
            let found = format!("{}x{}", image.width, image.height);
            return Err(DiffusionError::Image(format!(
                "it is {found}, the plan makes {width}x{height}"
            )));
        }
        let Some(encoder) = &self.files.vae_encoder else {
            return Err(DiffusionError::Image("the plan has no VAE encoder".into()));
        };
        if self.encoder.is_none() {
            let kind = NetworkKind::VaeEncoder;
            let files = network_files(&self.bundle, &self.files, encoder, kind);
            let network = self.denoiser.network(&self.runtime, files, kind)?;
            self.encoder = Some(VaeEncoder::of(network, self.files.scaling_factor));
        }
        let channels = self.plan().latent[0];
        let encoder = self.encoder.as_mut().expect("opened above");
        let latents = encoder.encode(image, channels)?;
        self.tell_overflows(observer)?;
        Ok(latents)
    }

    fn sampler(&self, request: &Request) -> Result<Sampler, DiffusionError> {
        Sampler::new(self.sampler_kind(request)?, &self.scheduler, request.steps)
    }

    fn tokens(&self, request: &Request, observer: &mut Observer<'_>) -> Result<PromptTokens, DiffusionError> {
        if request.prompt.trim().is_empty() {
            return Err(DiffusionError::EmptyPrompt);
        }
        tell(observer, Event::Text)?;
        let tokens = PromptTokens {
            prompt: Prompt::read(&request.prompt, &self.tokenizer)?,
            negative: Prompt::read(&request.negative, &self.tokenizer)?,
        };
        let negative = request.is_guided().then_some(&tokens.negative);
        for dropped in std::iter::once(&tokens.prompt)
            .chain(negative)
            .filter_map(|prompt| prompt.tokens.dropped.clone())
        {
            tell(observer, Event::Notice(Notice::Truncated(dropped)))?;
        }
        Ok(tokens)
    }

    fn conditions(
        &mut self,
        request: &Request,
        tokens: &PromptTokens,
        observer: &mut Observer<'_>,
    ) -> Result<Conditions, DiffusionError> {
        if !request.guidance.is_finite() {
            return Err(DiffusionError::Option(format!(
                "guidance {} is no number",
                request.guidance
            )));
        }
        let sampler = self.sampler(request)?;
        let prompt = self.embedding(&tokens.prompt)?;
        let context = match (self.plan().batch, request.is_guided()) {
            (1, _) => prompt.clone(),
            (_, true) => guidance_context(&self.negative(&request.negative, &tokens.negative)?, &prompt)?,
            (_, false) => guidance_context(&prompt, &prompt)?,
        };
        self.tell_overflows(observer)?;
        if context.shape()[1..] != self.plan().context {
            let [tokens, width] = self.plan().context;
            let reason = format!(
                "its embedding is [{}], the plan takes {tokens} tokens of {width}",
                prompt.shape()
            );
            return Err(DiffusionError::Network {
                network: "text encoder",
                reason,
            });
        }
        Ok(Conditions {
            sampler,
            context,
            guidance: request.guidance,
        })
    }
}

impl Pipeline {
    /// The embedding of the negative prompt `text`, computed once for images in a row.
    fn negative(&mut self, text: &str, prompt: &Prompt) -> Result<HostTensor, DiffusionError> {
        if let Some((_, known)) = self.negative.as_ref().filter(|(of, _)| of == text) {
            return Ok(known.clone());
        }
        let embedding = self.embedding(prompt)?;
        self.negative = Some((text.to_owned(), embedding.clone()));
        Ok(embedding)
    }

    /// The embedding `[1, tokens, width]` of a prompt, its emphasis worked in.
    fn embedding(&mut self, prompt: &Prompt) -> Result<HostTensor, DiffusionError> {
        let plain = self.text_encoder.encode(&prompt.tokens.ids)?;
        if prompt.emphasis.is_plain() {
            return Ok(plain);
        }
        let empty = self.text_encoder.encode(&self.tokenizer.encode("")?.ids)?;
        Ok(emphasised(&plain, &empty, &prompt.weights()))
    }

    /// Which recorded attention an edit follows, in at most the `calls` that have any.
    fn words(
        &self,
        old: &Prompt,
        new: &Prompt,
        options: &ControlOptions,
        calls: usize,
    ) -> Result<Words, DiffusionError> {
        let alignment = Alignment::of((&old.tokens, &old.emphasis.text), (&new.tokens, &new.emphasis.text));
        let calls = if self.plan().has_control() { calls } else { 0 };
        Ok(Words::new(&alignment, options, calls, self.plan().context[0])?)
    }

    /// Tokens of a prompt, begin and end included: what maps are recorded of.
    pub fn tokens_used(&self, prompt: &str) -> Result<usize, DiffusionError> {
        Ok(Prompt::read(prompt, &self.tokenizer)?.tokens.used)
    }
}

/// Where the plan has a network's ONNX file `model`, and its f32 form.
fn network_files(bundle: &Bundle, files: &PipelineFiles, model: &str, kind: NetworkKind) -> NetworkFiles {
    NetworkFiles {
        model: bundle.path(model),
        widened: files.widened.get(&kind).map(|file| bundle.path(file)),
    }
}

fn tell(observer: &mut Observer<'_>, event: Event) -> Result<(), DiffusionError> {
    if observer(event).is_break() {
        Err(DiffusionError::Interrupted)
    } else {
        Ok(())
    }
}
