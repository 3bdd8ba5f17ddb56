"""The exporters of PyTorch: TorchScript (`torch.onnx.export(dynamo=False)`) and dynamo."""

import warnings

import torch


def torchscript(component, path, opset=17, dynamic=True, **options):
    """Writes one network as the TorchScript exporter spells it."""
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            component.module,
            tuple(component.inputs.values()),
            str(path),
            input_names=list(component.inputs),
            output_names=component.outputs,
            dynamic_axes=component.axes if dynamic else None,
            opset_version=opset,
            dynamo=False,
            **options,
        )


def dynamo(component, path, opset=None, dynamic=True, **options):
    """Writes one network as the dynamo exporter spells it; weights go to model.onnx.data beside `path`."""
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            component.module,
            tuple(component.inputs.values()),
            str(path),
            input_names=list(component.inputs),
            output_names=component.outputs,
            dynamic_shapes=tuple(component.axes.get(n) for n in component.inputs) if dynamic else None,
            opset_version=opset,
            dynamo=True,
            external_data=True,
            verbose=False,
            **options,
        )
