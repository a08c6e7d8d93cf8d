# The node in a container: ./start.sh docker. A mount inside it needs --device /dev/fuse --cap-add SYS_ADMIN.
FROM rust:1.95-bookworm AS build
RUN apt-get update && apt-get install -y --no-install-recommends clang libclang-dev && rm -rf /var/lib/apt/lists/*
WORKDIR /wizefs
COPY . .
RUN cargo build --release --locked && cp target/release/wizefs /usr/local/bin/wizefs

FROM debian:bookworm-slim
RUN apt-get update && apt-get install -y --no-install-recommends fuse3 && rm -rf /var/lib/apt/lists/*
COPY --from=build /usr/local/bin/wizefs /usr/local/bin/wizefs
ENV WIZEFS_ROOT=/wizefs
VOLUME /wizefs
STOPSIGNAL SIGTERM
ENTRYPOINT ["wizefs"]
CMD ["node", "--fg"]
