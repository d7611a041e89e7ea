"""What `manage.py doctor` finds: everything that this process can reach, asked in the order in which one thing rests on
another. Changes nothing."""

from __future__ import annotations

from orchestrator.registry import Finding


def diagnose(tenant: str) -> list[Finding]:
    """Return what is right and what is wrong, each wrong with what to do. Takes seconds; safe at any time."""
    # Late: a command is listed by `help` without loading what it would ask.
    from orchestrator.api.health import readiness
    from orchestrator.diagnosis import clocks, configuration, disk, ledger, servers, workers
    from orchestrator.registry import diagnoses

    found = [*configuration.findings(), *readiness()]
    answers = {each.name for each in found if each.ok}
    if {"database", "migrations"} <= answers:
        found += [*servers.database(), *clocks.of_this_host(), *ledger.findings(tenant)]
        found += [finding for ask in diagnoses for finding in ask()]
    if "broker" in answers:
        found += servers.broker()
        told = workers.ask()
        # Hosts are compared with the database's clock; with that away they have nothing to be compared with.
        found += workers.findings(told, known="database" in answers and "migrations" in answers)
        if "database" in answers:
            found += clocks.of_workers(told)
    if "results" in answers:
        found += servers.results()
    return [*found, *disk.findings()]
