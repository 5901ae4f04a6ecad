# The image of insieme-backend. One image, all roles: the command says which.
#
#     docker build -t insieme-backend .
#
# With --build-arg BINARY=local the binary is not compiled here but taken from target/docker/, where it must
# have been put (built for Debian bookworm); tests/compose does so.
ARG BINARY=compiled

FROM rust:1.95-bookworm AS compiled
WORKDIR /src
COPY . .
# The commit, for /version and --version.
ARG GIT_REVISION
ENV GIT_REVISION=${GIT_REVISION}
RUN cargo build --release --locked --bin insieme-backend && cp target/release/insieme-backend /insieme-backend

FROM scratch AS local
COPY target/docker/insieme-backend /insieme-backend

FROM ${BINARY} AS binary

FROM debian:bookworm-slim AS runtime
COPY --from=binary --chmod=0755 /insieme-backend /usr/local/bin/insieme-backend
# Nothing is written to the file system, and nothing needs a privilege.
USER 65532:65532
EXPOSE 3001 9100
STOPSIGNAL SIGTERM
ENTRYPOINT ["insieme-backend"]
CMD ["--help"]
