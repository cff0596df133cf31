# iobd and iobctl on Debian, without a compiler and without root. Built by `./dev image`.
#
# The daemon and its clients meet in the volume /run/iob: mount it into the other container, and give
# that container's user the group 990.

FROM debian:bookworm-slim AS build
WORKDIR /src
# Alone, so that the packages are a layer of their own that survives a change of the sources.
COPY dev ./
RUN ./dev setup
COPY CMakeLists.txt CMakePresets.json ./
COPY proto proto
COPY shm shm
COPY client client
COPY server server
RUN cmake --preset release -DIOB_TESTS=OFF -DIOB_BENCH=OFF \
 && cmake --build --preset release --target iobd iobctl \
 && install -D -s -t /out build/release/server/iobd build/release/client/iobctl

FROM debian:bookworm-slim
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="iob" \
      org.opencontainers.image.description="Broker daemon: Zircon's I/O buffers on Linux" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION"
RUN apt-get update \
 && apt-get install -y --no-install-recommends \
      libcpp-httplib0.11 libgrpc++1.51 libprometheus-cpp-core1.0 libspdlog1.10 \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/archives/*.deb
# Setgid, so that sockets made in the volume belong to the group whatever user the daemon runs as.
RUN groupadd --system --gid 990 iob \
 && useradd --system --uid 990 --gid 990 --no-create-home --home-dir /nonexistent \
      --shell /usr/sbin/nologin iob \
 && install -d -o 990 -g 990 -m 2770 /run/iob
COPY --from=build /out/ /usr/local/bin/
# A library that nobody installed stops the build here, not the daemon somewhere else.
RUN ! ldd /usr/local/bin/iobd /usr/local/bin/iobctl | grep 'not found'
VOLUME /run/iob
# By number: Kubernetes' runAsNonRoot cannot judge a name.
USER 990:990
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s CMD ["iobctl", "health"]
# The directory is named because a daemon that is not root would choose one of its own. Metrics stay
# inside the container's network unless the command line says --admin-address 0.0.0.0:9464.
ENTRYPOINT ["iobd", "--runtime-dir", "/run/iob"]
