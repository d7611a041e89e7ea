from __future__ import annotations

from django.contrib import admin
from django.urls import include, path
from django.views.generic import RedirectView

from orchestrator.api.views import probes

urlpatterns = [
    # Before the API's own, which answers for every path that is left.
    path("", include("triggers.api.urls")),
    path("", include("orchestrator.api.urls")),
    path("healthz", probes.healthz),
    path("readyz", probes.readyz),
    path("metrics", probes.metrics),
    path("admin/", admin.site.urls),
    path("", RedirectView.as_view(url="/admin/", permanent=False)),
]
