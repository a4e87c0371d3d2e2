"""What a command shows while it works: lines on standard output, progress on standard error."""

from resnext_jax import console
from resnext_jax.console import Console, format_metrics


def show(quiet: bool = False) -> None:
    shown = Console(quiet)
    shown.line("[bold]a line")
    with shown.task("reading [all] images", total=3) as update:
        update(1, "")
        update(2, "12 images/s")


def test_progress_goes_to_standard_error(capsys, monkeypatch):
    monkeypatch.setattr(console, "PLAIN_SECONDS", -1.0)
    show()
    out, err = capsys.readouterr()
    assert out == "[bold]a line\n"
    assert err == "reading [all] images 1/3\nreading [all] images 2/3 12 images/s\n"


def test_lines_of_progress_are_rare_where_no_terminal_is(capsys):
    show()
    assert capsys.readouterr().err == ""


def test_a_terminal_gets_a_bar_and_standard_output_stays_clean(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes the stream for a terminal
    show()
    out, err = capsys.readouterr()
    assert out.strip().endswith("a line")
    assert "reading [all] images" in err
    assert "2/3" in err


def test_quiet_shows_nothing(capsys, monkeypatch):
    monkeypatch.setattr(console, "PLAIN_SECONDS", -1.0)
    show(quiet=True)
    assert capsys.readouterr() == ("", "")


def test_metrics_in_words():
    metrics = {"val_loss": 0.51234, "val_top1": 0.812, "val_top5": 1.0}
    assert format_metrics(metrics, "val_") == "loss 0.5123  top-1 81.20 %  top-5 100.00 %"
    assert format_metrics({"loss": 1.0}) == "loss 1.0000"
