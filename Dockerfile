# The README's two commands in a container:
#
#   docker build --tag whisper-spectral .
#   docker run --rm --volume "$PWD/figures:/project/figures" whisper-spectral
#   docker run --rm whisper-spectral make test WHISPER=no
#
# The image holds the environment and the project; `make figures` draws into the mounted folder. With
# WHISPER=yes at build OpenAI's tiny.en and base are installed too (200 MB more).
FROM python:3.12-slim-bookworm

# Debian keeps no older version of a package that one could pin.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc git libc6-dev make \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /project
COPY . .
ARG WHISPER=no
ENV WHISPER=$WHISPER PYTHON=python
RUN make env && if [ "$WHISPER" != no ]; then make weights; fi

CMD ["make", "figures"]
