# The image of insieme-backend. One image, all roles: the command says which.
#
#     docker build -t insieme-backend .
#
# With --build-arg BINARY=local nothing is compiled here. The binary (built for Debian bookworm) and the authorities
# come from target/docker/; put them there first, as tests/compose does.
ARG BINARY=compiled

FROM rust:1.95-bookworm AS compiled
WORKDIR /src
COPY . .
# The commit, for /version and --version.
ARG GIT_REVISION
ENV GIT_REVISION=${GIT_REVISION}
RUN cargo build --profile dist --locked --bin insieme-backend \
 && cp target/dist/insieme-backend /insieme-backend \
 && cp /etc/ssl/certs/ca-certificates.crt /

FROM scratch AS local
COPY target/docker/insieme-backend target/docker/ca-certificates.crt /

FROM ${BINARY} AS binary

FROM debian:bookworm-slim AS runtime
COPY --from=binary --chmod=0755 /insieme-backend /usr/local/bin/insieme-backend
# The authorities that are trusted unless a file of others is configured: for auth.jwks_url, and tls:// of NATS.
COPY --from=binary --chmod=0644 /ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
# Nothing is written to the file system, and nothing needs a privilege.
USER 65532:65532
EXPOSE 3001 8090 9100
STOPSIGNAL SIGTERM
# Without a role it says which there are, and fails.
ENTRYPOINT ["insieme-backend"]
