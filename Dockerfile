# One image for every process of the production profile; docker-compose.yml names their commands.
FROM python:3.11-slim-bookworm

ENV PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    UPBEAT_PROFILE=production \
    # A TERM ends a worker within its soft time-out; without this it would wait for its longest task.
    REMAP_SIGTERM=SIGQUIT

WORKDIR /app
COPY requirements.txt .
RUN pip install --no-cache-dir --only-binary :all: -r requirements.txt

COPY manage.py ./
COPY orchestrator orchestrator
COPY workers workers
COPY triggers triggers
COPY alerts alerts
COPY examples examples

# Tasks run as this user; the volume of logs and results is its only place to write.
RUN useradd --system --create-home --uid 10001 upbeat && install -d -o upbeat /var/lib/upbeat
USER upbeat
ENV UPBEAT_HOME=/var/lib/upbeat
VOLUME /var/lib/upbeat
