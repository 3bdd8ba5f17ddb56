//! Sizes of symbolic dimensions that the graph itself fixes.
//!
//! What is asked for (the size of the image, the number of images) is given; the rest follows from the operators: the
//! channels of a convolution's input from its weight, the width of a text embedding from the projections that read it,
//! what is added or concatenated from what it is added to, and from what the model declares of its outputs. Dimensions of
//! one symbol have one size.

mod constants;
mod expression;
mod rules;
mod size;

use std::collections::HashMap;

use crate::Bindings;
use crate::proto::tensor_shape_proto::Dimension;
use crate::proto::tensor_shape_proto::dimension::Value as Declared;
use crate::proto::{GraphProto, ValueInfoProto, type_proto};

use constants::Constants;
use rules::Shapes;
use size::{Size, Unknown};

/// The sizes of a model's symbolic dimensions.
#[derive(Debug, Default)]
pub(crate) struct Sizes {
    symbols: HashMap<String, usize>,
    /// by input and axis
    axes: HashMap<(String, usize), usize>,
}

impl Sizes {
    /// Solves for the dimensions of the inputs. `order` holds the nodes' indices, producers first.
    pub fn of(graph: &GraphProto, order: &[usize], bindings: &Bindings) -> Self {
        let mut system = System::default();
        let inputs = real_inputs(graph);
        let shapes: Vec<Option<Vec<Size>>> = inputs.iter().map(|input| system.input(input, bindings)).collect();
        if system.is_open() {
            let mut known = Shapes::new(Constants::of(graph));
            for (input, shape) in inputs.iter().zip(&shapes) {
                if let Some(shape) = shape {
                    known.set(input.name.as_deref().unwrap_or_default(), shape.clone());
                }
            }
            for &index in order {
                known.node(&graph.node[index], &mut system);
            }
            system.solve();
            for output in &graph.output {
                system.output(output, &known);
            }
            system.solve();
            system.guess();
        }
        let mut sizes = Sizes::default();
        for (symbol, unknown) in &system.symbols {
            sizes
                .symbols
                .extend(system.found[*unknown].map(|size| (symbol.clone(), size)));
        }
        for (input, shape) in inputs.iter().zip(shapes) {
            for (axis, size) in shape.into_iter().flatten().enumerate() {
                let number = size.resolved(&system.found).and_then(|size| size.number());
                let name = input.name.clone().unwrap_or_default();
                let number = number.and_then(|number| usize::try_from(number).ok());
                sizes.axes.extend(number.map(|number| ((name, axis), number)));
            }
        }
        sizes
    }

    /// The size of an input's axis.
    pub fn axis(&self, input: &str, axis: usize) -> Option<usize> {
        self.axes.get(&(input.to_owned(), axis)).copied()
    }

    /// The size of a declared dimension; a symbol may be arithmetic over symbols, as dynamo writes it.
    pub fn declared(&self, dim: &Dimension) -> Option<usize> {
        match dim.value.as_ref()? {
            Declared::DimValue(size) => usize::try_from(*size).ok(),
            Declared::DimParam(symbol) => self.symbols.get(symbol).copied().or_else(|| {
                let size = expression::evaluate(symbol, &|name| self.symbols.get(name).map(|&size| size as i64))?;
                usize::try_from(size).ok()
            }),
        }
    }
}

/// Inputs that are not initializers, which files up to IR version 3 list among them.
pub(crate) fn real_inputs(graph: &GraphProto) -> Vec<&ValueInfoProto> {
    let initializers: std::collections::HashSet<&str> = graph
        .initializer
        .iter()
        .filter_map(|initializer| initializer.name.as_deref())
        .collect();
    let is_real = |input: &&ValueInfoProto| !initializers.contains(input.name.as_deref().unwrap_or_default());
    graph.input.iter().filter(is_real).collect()
}

/// The dimensions that an input or output declares.
pub(crate) fn declared_dims(value: &ValueInfoProto) -> Option<&[Dimension]> {
    match value.r#type.as_ref()?.value.as_ref()? {
        type_proto::Value::TensorType(tensor) => Some(&tensor.shape.as_ref()?.dim),
        _ => None,
    }
}

/// Unknown sizes and what is known about them.
#[derive(Default)]
pub(crate) struct System {
    found: Vec<Option<usize>>,
    symbols: HashMap<String, Unknown>,
    /// sums that are zero
    equations: Vec<Size>,
    /// sums that are zero unless one of the two sizes is 1, which broadcasts
    likely: Vec<Size>,
}

impl System {
    fn is_open(&self) -> bool {
        self.found.iter().any(Option::is_none)
    }

    fn fresh(&mut self, size: Option<usize>) -> Unknown {
        self.found.push(size);
        self.found.len() - 1
    }

    fn symbol(&mut self, symbol: &str) -> Unknown {
        if let Some(&known) = self.symbols.get(symbol) {
            return known;
        }
        let unknown = self.fresh(None);
        self.symbols.insert(symbol.to_owned(), unknown);
        unknown
    }

    /// The shape of an input: fixed sizes, those that are asked for, and unknown ones.
    fn input(&mut self, input: &ValueInfoProto, bindings: &Bindings) -> Option<Vec<Size>> {
        let dims = declared_dims(input)?;
        let name = input.name.as_deref().unwrap_or_default();
        let mut shape = Vec::with_capacity(dims.len());
        for (axis, dim) in dims.iter().enumerate() {
            let symbol = match &dim.value {
                Some(Declared::DimValue(fixed)) => {
                    shape.push(Size::known(usize::try_from(*fixed).ok()?));
                    continue;
                }
                Some(Declared::DimParam(symbol)) => symbol.as_str(),
                None => "",
            };
            let asked = bindings.given(name, axis, symbol);
            let asked = asked.or_else(|| bindings.size(name, dims.len(), axis));
            let unknown = match symbol {
                "" => self.fresh(asked),
                symbol => self.symbol(symbol),
            };
            // inputs of one symbol may be asked for at several sizes: each is right for its own input
            match (asked, self.found[unknown]) {
                (Some(asked), Some(found)) if asked != found => {
                    shape.push(Size::known(asked));
                    continue;
                }
                (Some(asked), None) => self.found[unknown] = Some(asked),
                _ => {}
            }
            shape.push(Size::unknown(unknown));
        }
        Some(shape)
    }

    /// What the model declares of an output agrees with what computes it.
    fn output(&mut self, output: &ValueInfoProto, known: &Shapes<'_>) {
        let computed = known.get(output.name.as_deref().unwrap_or_default());
        let Some((computed, dims)) = computed.zip(declared_dims(output)) else {
            return;
        };
        if computed.len() != dims.len() {
            return;
        }
        for (size, dim) in computed.iter().zip(dims) {
            let declared = match &dim.value {
                Some(Declared::DimValue(fixed)) => usize::try_from(*fixed).ok().map(Size::known),
                Some(Declared::DimParam(symbol)) => Some(Size::unknown(self.symbol(symbol))),
                None => None,
            };
            if let Some((size, declared)) = size.as_ref().zip(declared) {
                self.equal(size, &declared);
            }
        }
    }

    /// Two sizes are the same.
    pub fn equal(&mut self, a: &Size, b: &Size) {
        let difference = a.plus(b, -1).filter(|difference| difference.number().is_none());
        self.equations.extend(difference);
    }

    /// Two sizes are the same, or one of them is 1.
    pub fn meet(&mut self, a: &Size, b: &Size) {
        let difference = a.plus(b, -1).filter(|difference| difference.number().is_none());
        self.likely.extend(difference);
    }

    /// Solves equations with one unknown until there is none.
    fn solve(&mut self) {
        let mut open = std::mem::take(&mut self.equations);
        loop {
            let before = open.len();
            open.retain(|equation| {
                let resolved = equation.resolved(&self.found);
                match resolved.as_ref().and_then(Size::zero_of) {
                    Some((unknown, size)) => {
                        self.found[unknown] = Some(size);
                        false
                    }
                    // what contradicts itself is for shape inference to report
                    None => resolved.is_some_and(|resolved| resolved.number().is_none()),
                }
            });
            if open.len() == before {
                break;
            }
        }
        self.equations = open;
    }

    /// Takes what broadcasts for equal, one unknown after another.
    fn guess(&mut self) {
        for likely in std::mem::take(&mut self.likely) {
            let resolved = likely.resolved(&self.found);
            if let Some((unknown, size)) = resolved.as_ref().and_then(Size::zero_of) {
                self.found[unknown] = Some(size);
                self.solve();
            }
        }
    }
}
