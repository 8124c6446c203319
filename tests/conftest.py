"""Fixtures of several files; settings of hypothesis, and of coverage: which tests its tracer does not slow down."""

import collections
import os
from collections.abc import Iterator
from types import ModuleType

import pytest
from hypothesis import HealthCheck, settings

from support.sampled import COMMIT, SEED, chosen
from support.untraced import resting

# Derandomised in CI, so that a run says the same twice; no deadline, since mpmath is slow.
settings.register_profile("dev", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", parent=settings.get_profile("dev"), derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "dev")


# Parameters of a test mostly go the same ways through the code: coverage watches each fifth, and .ci/run still wants
# every branch to be reached. A line that only others reach shows up as missed: name its test here then.
WATCHED = (
    "cli/test_budget.py::test_budgets_in_the_table_are_those_of_json",
    "cli/test_loading.py::test_a_target_that_is_no_function_says_what_is_wrong",
    "cli/test_loss_names.py::test_what_is_no_loss_says_what_is_wrong",
    "test_black_box.py::test_a_loss_of_no_family_is_unknown",
    "test_black_box.py::test_every_loss_is_named_with_its_settings[CrossEntropy",
    "test_black_box.py::test_every_loss_is_named_with_its_settings[SoftmaxLoss",
    "test_black_box.py::test_what_is_done_to_a_value_is_stated[reduction",
    "test_causes.py::test_two_defects_are_named_together",
    "test_certified_hard.py::test_an_equal_class",
    "test_certified_sides.py::test_every_kink_is_named_and_follows_its_convention",
    "test_certified_zeros.py::test_no_proof_of_0_of_triplets_is_wrong",
    "test_conformance.py::test_a_setting_that_is_none_is_refused_by_name",
    "test_conformance.py::test_small_shapes_have_cases_too",
    "test_conformance.py::test_what_ends_a_program_is_a_failure",
    "test_defects.py::test_a_row_has_results_of_the_loss_s_shapes",
    "test_defects.py::test_names_that_are_none_are_refused",
    "test_diagnosis.py::test_shards_are_told_apart_for_every_reduction",
    "test_diagnosis_links.py::test_what_is_wrong_with_a_gradient_is_named",
    "test_diagnosis_links.py::test_without_a_setting_there_is_less_to_be_mistaken_in",
    "test_divergence.py::test_where_all_of_p_is_masked_its_gradient_is_that_of_its_entropy",
    "test_error_free.py::test_scaled_numbers_beside_others",
    "test_fused_row_scaling.py::test_float32_hands_numbers_that_it_cannot_scale_to_the_chain",
    "test_implementations.py::test_what_is_not_there_is_named",
    "test_inputs.py::test_what_cannot_be_is_refused_by_name",
    "test_kernels_pairs.py::test_what_is_not_finite_comes_out_as_of_float64",
    "test_logit_options.py::test_the_value_alone_has_the_bits_of_the_one_with_gradients",
    "test_odd_values.py::test_odd_values_are_refused_by_the_name_of_their_argument",
)
# Many parameters at length: of those that are not watched .ci/run draws a third, others for every commit.
SAMPLED = (
    "test_black_box.py::test_a_loss_of_no_family_is_unknown",
    "test_black_box.py::test_every_loss_is_named",
    "test_certified.py::test_enclosures_hold_the_truth",
    "test_certified_zeros.py::test_no_proof_of_0",
    "test_chain.py",
    "test_conformance.py::test_a_defect_fails_and_is_named",
    "test_conformance.py::test_class_weights_of_both_signs",
    "test_conformance.py::test_more_defects_are_named_over_all_groups",
    "test_conformance.py::test_refloss_",
    "test_dd.py",
    "test_docs.py::test_examples_of_the_site_print_what_is_printed",
    "test_examples.py::test_check_says_what_the_table_says",
    "test_examples.py::test_settings_are_those_of_the_loss",
    "test_fused.py::test_float32_conforms",
    "test_hostile.py",
    "test_language_models.py::test_a_defect_is_refused_and_named",
    "test_language_models.py::test_its_mended_twin_conforms",
    "test_losses.py",
    "test_margin.py::test_every_rule",
    "test_metamorphic.py",
    "test_mutants.py",
)
# Many seconds each, and about what the others cover: .ci/run asks for them, a plain `pytest` leaves them out.
LONG = (
    "cli/test_demo.py::test_demo_is_the_same_every_time",
    "cli/test_demo.py::test_demo_shows_every_case",
    "test_answers_and_pairs.py::test_a_difference_of_two_rounded_numbers_meets_working_alone",
    "test_black_box.py::test_a_constant_is_no_loss",
    "test_black_box.py::test_a_factor_of_gradients_whose_inverse_is_short_is_stated",
    "test_black_box.py::test_a_gradient_convention_is_stated",
    "test_black_box.py::test_a_gradient_of_no_convention_leaves_the_loss_unknown",
    "test_black_box.py::test_a_loss_of_no_family_is_unknown",
    "test_black_box.py::test_every_loss_is_named",
    "test_black_box.py::test_what_is_done_to_a_value_is_stated",
    "test_black_box.py::test_what_large_batches_alone_show_is_not_left_out",
    "test_budget_formulas.py",
    "test_budgets.py::test_a_correct_implementation_is_never_over_budget",
    "test_causes.py::test_two_defects_are_named_together",
    "test_causes.py::test_what_is_planted_is_named",
    "test_certified.py::test_enclosures_hold_the_truth",
    "test_certified_class_curves.py::test_enclosures_hold_the_truth",
    "test_certified_zeros.py::test_no_proof_of_0",
    "test_chain.py::test_heads_keep_the_contract",
    "test_complete.py",
    "test_conformance.py::test_a_defect_fails_and_is_named",
    "test_conformance.py::test_a_fit_has_to_explain_everything",
    "test_conformance.py::test_an_arccos_is_told_from_a_clamp",
    "test_conformance.py::test_cases_that_pass_tell_one_explanation_from_another",
    "test_conformance.py::test_class_weights_of_both_signs",
    "test_conformance.py::test_jax_is_differentiated",
    "test_conformance.py::test_more_defects_are_named_over_all_groups",
    "test_conformance.py::test_noise_is_no_product_of_short_numbers",
    "test_conformance.py::test_only_an_overflow_is_named_as_such",
    "test_conformance.py::test_refloss_conforms_relative_to_tiny_losses_too",
    "test_conformance.py::test_refloss_itself_conforms",
    "test_conformance.py::test_some_gradients_may_be_all_there_are",
    "test_conformance.py::test_values_alone_can_be_checked",
    "test_conformance.py::test_what_goes_into_a_margin_is_named",
    "test_dd.py::test_divergences_keep_the_contract",
    "test_dd.py::test_heads_keep_the_contract",
    "test_dd.py::test_huge_scales_cost_nothing",
    "test_dd.py::test_other_classes_next_to_x_and_opposite_to_it",
    "test_defects.py::test_a_row_has_results_of_the_loss_s_shapes",
    "test_derivations.py::test_the_sides_of_a_step_agree",
    "test_diagnosis_curves.py::test_a_cause_has_the_results_of_the_code",
    "test_diagnosis_curves.py::test_an_arccos_of_other_classes_is_told_from_a_clamp",
    "test_diagnosis_curves.py::test_causes_are_named",
    "test_diagnosis_curves.py::test_right_code_that_a_standard_refuses_is_given_none_of_these_causes",
    "test_diagnosis_links.py::test_a_cause_has_the_results_of_the_code",
    "test_diagnosis_links.py::test_causes_are_named",
    "test_diagnosis_links.py::test_what_a_cause_stands_for_is_what_no_other_does",
    "test_diagnosis_links.py::test_what_has_no_cause_is_given_none",
    "test_diagnosis_links.py::test_what_is_wrong_with_a_gradient_is_named",
    "test_docs.py::test_examples_of_the_site_print_what_is_printed",
    "test_docs.py::test_the_property_checks_run_as_printed",
    "test_examples.py::test_check_says_what_the_table_says",
    "test_examples.py::test_settings_are_those_of_the_loss",
    "test_fused.py::test_any_shape_and_setting_is_that_of_the_chain",
    "test_fused.py::test_every_setting",
    "test_fused.py::test_float32_conforms",
    "test_fused.py::test_float32_is_within_its_budget",
    "test_fused.py::test_heads_keep_the_contract",
    "test_fused_products.py::test_bits_do_not_depend_on_the_threads_of_the_blas",
    "test_gallery.py::test_gradients_pass_the_checks_at_the_first_a_middle_and_the_last_step",
    "test_kernels_jit.py::test_of_any_kernel_the_cache_may_be_damaged",
    "test_known_issues.py",
    "test_language_models.py",
    "test_logit_options.py",
    "test_losses.py::test_margin_losses_keep_the_contract",
    "test_metamorphic.py",
    "test_mutants.py",
    "test_odd_values.py",
    "test_planted.py::test_a_row_is_what_code_with_its_defect_computes",
    "test_real_code.py",
    "test_samples_and_classes.py::test_causes_are_named",
    "test_several_centers.py::test_the_order_of_centers_changes_nothing_but_their_order",
    "test_verdicts.py",
)


@pytest.fixture
def torch() -> Iterator[ModuleType]:
    """Torch, on one thread; the test is skipped where torch is not there."""
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # waking a thread takes longer than any of these tensors
    yield torch
    torch.set_num_threads(before)


@pytest.fixture
def jax() -> Iterator[ModuleType]:
    """Jax, with float64 on; the test is skipped where jax is not there."""
    jax = pytest.importorskip("jax")
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)
    yield jax
    jax.config.update("jax_enable_x64", before)


@pytest.fixture
def set_threads(monkeypatch):
    """Sets the number of threads at work; the pool is a new one."""
    from refloss.engines import threads

    def change(count):
        monkeypatch.setattr(threads, "THREADS", count)
        threads._pool.renew()

    yield change
    monkeypatch.undo()
    threads._pool.renew()


def pytest_report_header():
    """Say what this run draws."""
    return f"hostile inputs and samples: seed {SEED}, from commit {COMMIT or 'unknown'}"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    """Mark what coverage need not watch, and leave out what another commit draws."""
    seen, left_out = collections.Counter(), []
    for item in items:
        if any(name in item.nodeid for name in LONG):
            item.add_marker("long")
        # Inputs of any scale are tried everywhere; tests/test_contract.py asks when there is a warning.
        item.add_marker(pytest.mark.filterwarnings("ignore::refloss.AccuracyWarning"), append=False)
        name = item.nodeid.partition("[")[0]
        if seen[name] % 5 and not any(part in item.nodeid for part in WATCHED):
            item.add_marker("untraced")
            if COMMIT and any(part in name for part in SAMPLED) and not chosen(item.nodeid):
                left_out.append(item)
        seen[name] += 1
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        gone = set(left_out)
        items[:] = [item for item in items if item not in gone]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    """Tests marked untraced run without coverage's tracer: they check much, and run no line that others do not."""
    if item.get_closest_marker("untraced") is None:
        return (yield)
    with resting():
        return (yield)
