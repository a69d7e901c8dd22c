# docker build -t batch-runner .
# docker run --rm --init -e OPENAI_API_KEY -v "$PWD:/data" -u "$(id -u):$(id -g)" batch-runner run jobs/mine.toml
FROM python:3.12-slim AS build
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY batch_runner ./batch_runner
RUN python -m venv /opt/batch-runner \
 && /opt/batch-runner/bin/pip install --no-cache-dir --constraint constraints.txt ".[tokens]"

FROM python:3.12-slim
COPY --from=build /opt/batch-runner /opt/batch-runner
ENV PATH=/opt/batch-runner/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1
RUN useradd --create-home --uid 10001 batch \
 && install -d -o batch -g batch /data
USER 10001
WORKDIR /data
# The journal lies beside the output: without a volume, `docker rm` throws away what has been paid for.
VOLUME /data
# Drains the calls in flight. Docker kills after 10 s: give it --stop-timeout 60, or --grace 8s.
STOPSIGNAL SIGTERM
ENTRYPOINT ["batch-runner"]
CMD ["--help"]
