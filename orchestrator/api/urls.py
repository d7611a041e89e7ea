from __future__ import annotations

from django.urls import path, re_path
from drf_spectacular.views import SpectacularAPIView, SpectacularSwaggerSplitView

from orchestrator.api import converters
from orchestrator.api.authentication import SessionOrToken
from orchestrator.api.permissions import IsStaffOrMayRead
from orchestrator.api.views import (
    audit,
    commands,
    connections,
    jobs,
    locks,
    runs,
    secrets,
    task_runs,
    tasks,
    templates,
    tokens,
    waiting,
)
from orchestrator.api.views.base import UnknownPath
from orchestrator.api.views.trigger import TriggerRun

# Imported for what it registers.
__all__ = ["converters", "urlpatterns"]

_OPEN = {"authentication_classes": [SessionOrToken], "permission_classes": [IsStaffOrMayRead]}

urlpatterns = [
    path("v1/jobs/trigger", TriggerRun.as_view(schema=None)),
    path("api/v1/jobs/trigger", TriggerRun.as_view()),
    path("api/v1/runs/<id:run_id>", runs.RunDetail.as_view(), name="run"),
    path("api/v1/runs", runs.RunList.as_view()),
    path("api/v1/runs/<id:run_id>/task-runs", runs.RunTaskRuns.as_view()),
    path("api/v1/runs/<id:run_id>/transitions", runs.RunTransitions.as_view()),
    path("api/v1/runs/<id:run_id>/cancellation", runs.RunCancellation.as_view()),
    path("api/v1/runs/<id:run_id>/pause", runs.RunPause.as_view()),
    path("api/v1/runs/<id:run_id>/resume", runs.RunResume.as_view()),
    path("api/v1/runs/<id:run_id>/retries", commands.RunRetries.as_view()),
    path("api/v1/runs/cancellations", commands.RunCancellations.as_view()),
    path("api/v1/runs/retries", commands.RunsRetries.as_view()),
    path("api/v1/task-runs/<id:task_run_id>/skip", commands.TaskRunSkip.as_view()),
    path("api/v1/task-runs/<id:task_run_id>/mark", commands.TaskRunMark.as_view()),
    path("api/v1/task-runs/<id:task_run_id>", task_runs.TaskRunDetail.as_view()),
    path("api/v1/task-runs/<id:task_run_id>/result", task_runs.TaskRunResult.as_view()),
    path("api/v1/task-runs/<id:task_run_id>/attempts", task_runs.TaskRunAttempts.as_view()),
    path("api/v1/task-runs/<id:task_run_id>/transitions", task_runs.TaskRunTransitions.as_view()),
    path("api/v1/attempts/<id:attempt_id>/log", task_runs.AttemptLog.as_view()),
    path("api/v1/attempts/<id:attempt_id>/log/stream", task_runs.AttemptLogStream.as_view()),
    path("api/v1/jobs", jobs.JobList.as_view()),
    path("api/v1/jobs/validation", jobs.Validation.as_view(), {"job": "validation"}),
    path("api/v1/jobs/<job:job>", jobs.JobDetail.as_view()),
    path("api/v1/jobs/<job:job>/parameters", jobs.JobParameters.as_view()),
    path("api/v1/jobs/<job:job>/versions", jobs.VersionList.as_view()),
    path("api/v1/jobs/<job:job>/versions/<id:number>", jobs.VersionDetail.as_view()),
    path("api/v1/jobs/<job:job>/versions/<id:number>/text", jobs.VersionText.as_view()),
    path("api/v1/jobs/<job:job>/versions/<id:number>/export", jobs.VersionExport.as_view()),
    path("api/v1/jobs/<job:job>/versions/<id:number>/diff", jobs.VersionDiff.as_view()),
    path("api/v1/jobs/<job:job>/pause", jobs.JobPause.as_view()),
    path("api/v1/jobs/<job:job>/resume", jobs.JobResume.as_view()),
    path("api/v1/jobs/<job:job>/archive", jobs.JobArchive.as_view()),
    path("api/v1/jobs/<job:job>/restore", jobs.JobRestore.as_view()),
    path("api/v1/runs/<id:run_id>/waiting", waiting.RunWaiting.as_view()),
    path("api/v1/task-runs/<id:task_run_id>/waiting", waiting.TaskRunWaiting.as_view()),
    path("api/v1/locks", locks.LockList.as_view()),
    path("api/v1/locks/<lock:name>", locks.LockDetail.as_view()),
    path("api/v1/locks/<lock:name>/releases", locks.LockReleases.as_view()),
    path("api/v1/secrets", secrets.SecretList.as_view()),
    path("api/v1/secrets/<stored:name>", secrets.SecretDetail.as_view()),
    path("api/v1/connections", connections.ConnectionList.as_view()),
    path("api/v1/connections/<stored:name>", connections.ConnectionDetail.as_view()),
    path("api/v1/tasks", tasks.TaskList.as_view()),
    path("api/v1/tasks/<job:job>", tasks.TaskDetail.as_view()),
    path("api/v1/tasks/<job:job>/status", tasks.TaskStatus.as_view()),
    path("api/v1/tasks/<job:job>/execute", tasks.TaskExecute.as_view()),
    path("api/v1/tasks/<job:job>/stop", tasks.TaskStop.as_view()),
    path("api/v1/templates", templates.TemplateList.as_view()),
    path("api/v1/templates/<template:name>", templates.TemplateDetail.as_view()),
    path("api/v1/templates/<template:name>/export", templates.TemplateExport.as_view()),
    path("api/v1/templates/<template:name>/parameters", templates.TemplateParameters.as_view()),
    path("api/v1/templates/<template:name>/jobs", templates.TemplateJobs.as_view()),
    path("api/v1/tokens", tokens.TokenList.as_view()),
    path("api/v1/tokens/<id:token_id>", tokens.TokenDetail.as_view()),
    path("api/v1/audit-records", audit.AuditRecordList.as_view()),
    path("api/v1/audit-records/<id:record_id>", audit.AuditRecordDetail.as_view()),
    path("api/v1/schema", SpectacularAPIView.as_view(**_OPEN), name="schema"),
    path("api/v1/docs", SpectacularSwaggerSplitView.as_view(url_name="schema", **_OPEN), name="docs"),
    re_path(r"^(?:api|v1)(?:/.*)?$", UnknownPath.as_view()),
]
