"""Inference: one path from images to probabilities; metrics, evaluation, the predictor of a run."""

from resnext_jax.inference.bootstrap import RESAMPLES, differences, intervals, wilson
from resnext_jax.inference.classification import (
    Results,
    classification_report,
    confusion_matrix,
    make_results,
    weighted_areas,
)
from resnext_jax.inference.converted import convert_to_run
from resnext_jax.inference.evaluation import LabelledPredictions, class_metrics, turns
from resnext_jax.inference.evaluator import Evaluator
from resnext_jax.inference.explain import Explanations, Method, evidence, finest_stage, gradient_maps
from resnext_jax.inference.export import check_format, export_model
from resnext_jax.inference.features import Features
from resnext_jax.inference.fold import fold_batch_norm
from resnext_jax.inference.metrics import Sums, mean_metrics, means, metric_sums, zero_sums
from resnext_jax.inference.predictions import Predictions
from resnext_jax.inference.predictor import Predictor, load_run
from resnext_jax.inference.step import make_eval_step

__all__ = [
    "RESAMPLES",
    "Evaluator",
    "Explanations",
    "Features",
    "LabelledPredictions",
    "Method",
    "Predictions",
    "Predictor",
    "Results",
    "Sums",
    "check_format",
    "class_metrics",
    "classification_report",
    "confusion_matrix",
    "convert_to_run",
    "differences",
    "evidence",
    "export_model",
    "finest_stage",
    "fold_batch_norm",
    "gradient_maps",
    "intervals",
    "load_run",
    "make_eval_step",
    "make_results",
    "mean_metrics",
    "means",
    "metric_sums",
    "turns",
    "weighted_areas",
    "wilson",
    "zero_sums",
]
