"""`kairos demo`: one of the stories, in a lab of network namespaces."""

from __future__ import annotations

import argparse
from pathlib import Path

from kairos_cli.demo.hosts import Lab, remove_namespaces
from kairos_cli.demo.policy_story import PolicyStory
from kairos_cli.demo.report import Report
from kairos_cli.demo.story import Story
from kairos_cli.demo.vni_story import VniStory


def run(options: argparse.Namespace) -> int:
    """0 when every step held."""
    if options.remove:
        remove_namespaces()
        return 0
    report = Report()
    kind = {"whole": Story, "policy": PolicyStory, "vni": VniStory}[options.story]
    with Lab(kind.wiring) as lab:
        story = kind(lab, report, options.suite, quick=options.quick)
        try:
            story.tell()
        finally:
            report.summary()
            if options.figures:
                report.write(Path(options.figures))
        if options.keep:
            lab.keep = True
            story.say_how_to_play()
        else:
            story.stop()
    return 1 if report.failed else 0
