# The node in a container: ./start.sh docker. A mount inside it needs --device /dev/fuse --cap-add SYS_ADMIN.
FROM rust:1.95-bookworm AS build
RUN apt-get update && apt-get install -y --no-install-recommends clang libclang-dev && rm -rf /var/lib/apt/lists/*
WORKDIR /wizefs
COPY . .
RUN cargo build --release --locked --bin wizefs \
    && strip --strip-unneeded -o /usr/local/bin/wizefs target/release/wizefs

FROM debian:bookworm-slim
# The program needs nothing but the C and C++ libraries of the image; fuse3 is for nodes that do not run as root.
RUN apt-get update && apt-get install -y --no-install-recommends fuse3 && rm -rf /var/lib/apt/lists/*
COPY --from=build /usr/local/bin/wizefs /usr/local/bin/wizefs
ENV WIZEFS_ROOT=/wizefs
VOLUME /wizefs
HEALTHCHECK --interval=30s --timeout=10s --start-period=60s CMD ["sh", "-c", "test -S /wizefs/node.sock && wizefs status --json"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["wizefs"]
CMD ["node", "--fg"]
