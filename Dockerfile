# syntax=docker/dockerfile:1
# Weft and the orders example: `docker build -t weft .`

FROM rust:1.95-slim-bookworm AS build
WORKDIR /src
COPY . .
# The caches stay between builds; what leaves the layer is copied out of them in the same step.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --release --locked -p weft -p weft-example-orders \
    && install -D target/release/weft /out/weft \
    && install -D target/release/orders /out/orders

FROM debian:bookworm-slim
# Certificates for servers that are reached over TLS.
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --home-dir /app weft
COPY --from=build /out/weft /usr/local/bin/weft
COPY --from=build /out/orders /app/orders
COPY examples/orders/weft.toml /app/weft.toml
COPY examples/orders/schemas /app/schemas
COPY examples/orders/data /app/data
WORKDIR /app
# In a container "loopback" is the container: the port opens to its network, and whoever runs it decides who gets there.
ENV WEFT_ADMIN=0.0.0.0:7070 WEFT_LOG_FORMAT=json
EXPOSE 7070
USER 10001
# Healthy: connected to the broker, and the ledger's lease is held.
HEALTHCHECK --interval=5s --timeout=3s --start-period=20s --retries=3 \
    CMD ["bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/7070 && printf 'GET /health HTTP/1.0\\r\\n\\r\\n' >&3 && head -n 1 <&3 | grep -q ' 200 '"]
# SIGTERM drains: what runs is finished, nothing new is taken.
STOPSIGNAL SIGTERM
ENTRYPOINT ["weft"]
CMD ["run"]
