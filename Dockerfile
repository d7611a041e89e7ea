# One image for every process of the production profile; docker-compose.yml names their commands.
# Packages are installed in a stage of their own: pip, its cache and its build files stay behind.
FROM python:3.11-slim-bookworm AS packages

COPY requirements.txt .
RUN python -m venv --without-pip /venv \
 && python -m pip --python /venv/bin/python install --no-cache-dir --no-compile --only-binary :all: -r requirements.txt

FROM python:3.11-slim-bookworm

ENV PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PATH=/venv/bin:$PATH \
    UPBEAT_PROFILE=production \
    UPBEAT_HOME=/var/lib/upbeat

# Tasks run as this user; the volume of logs and results is its only place to write.
RUN useradd --system --create-home --uid 10001 upbeat && install -d -o upbeat /var/lib/upbeat

WORKDIR /app
COPY --from=packages /venv /venv
COPY manage.py ./
COPY orchestrator orchestrator
COPY workers workers
COPY triggers triggers
COPY alerts alerts
COPY examples examples
# Bytecode once, in the image: the user that runs it may not write here, and every start would compile anew.
RUN python -m compileall -q /venv/lib orchestrator workers triggers alerts

USER upbeat
VOLUME /var/lib/upbeat
