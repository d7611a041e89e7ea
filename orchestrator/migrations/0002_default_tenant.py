from __future__ import annotations

from typing import Any

from django.db import migrations


def add_default_tenant(apps: Any, schema_editor: Any) -> None:
    apps.get_model("orchestrator", "Tenant").objects.get_or_create(slug="default", defaults={"name": "Default"})


class Migration(migrations.Migration):
    dependencies = [("orchestrator", "0001_initial")]
    operations = [migrations.RunPython(add_default_tenant, migrations.RunPython.noop)]
