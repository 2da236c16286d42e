#!/usr/bin/env bash
# Packs programs that are built already into the image that the Dockerfile makes, as an OCI archive,
# with tar, gzip and sha256sum alone. The same programs give the same bytes.
#
#   deploy/image/oci.sh PROGRAMS OUT.tar [NAME:TAG]
#
# PROGRAMS is a folder with gateway, worker and swarm. Take it with `docker load -i`, `podman load
# -i`, `ctr -n k8s.io images import`, `kind load image-archive`, or `skopeo copy oci-archive:OUT.tar …`.
set -euo pipefail

usage="usage: $0 PROGRAMS OUT.tar [NAME:TAG]"
programs=${1:?$usage}
out=${2:?$usage}
name=${3:-single-state:dev}
user=65532

case "$(uname -m)" in
  x86_64) architecture=amd64 ;;
  aarch64) architecture=arm64 ;;
  *) architecture=$(uname -m) ;;
esac

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
blobs="$work/image/blobs/sha256"
mkdir -p "$blobs" "$work/root/data"

sha() { sha256sum "$1" | cut -d ' ' -f 1; }
# Adds a file as a blob; prints its descriptor's digest and size.
blob() {
  local digest
  digest=$(sha "$1")
  mv "$1" "$blobs/$digest"
  echo "\"digest\": \"sha256:$digest\", \"size\": $(stat -c %s "$blobs/$digest")"
}
pack() { tar --format=ustar --sort=name --mtime=@0 --numeric-owner "$@"; }

# /data is where a volume for SQLite is mounted; a new volume takes over whose it is.
for program in gateway worker swarm; do
  install -m 755 "$programs/$program" "$work/root/$program"
done
chmod 755 "$work/root/data"
pack --create --owner=0 --group=0 --directory="$work/root" --file="$work/layer.tar" gateway swarm worker
pack --owner=$user --group=$user --directory="$work/root" --append --file="$work/layer.tar" data
diff_id=$(sha "$work/layer.tar")
gzip --no-name "$work/layer.tar"
layer=$(blob "$work/layer.tar.gz")

cat > "$work/config.json" <<JSON
{
  "architecture": "$architecture",
  "os": "linux",
  "config": {
    "User": "$user:$user",
    "ExposedPorts": {"7000/tcp": {}, "8000/tcp": {}, "9000/tcp": {}, "9001/tcp": {}},
    "Cmd": ["/gateway", "--help"],
    "Env": ["MALLOC_MMAP_THRESHOLD_=1048576", "MALLOC_TRIM_THRESHOLD_=16777216"],
    "WorkingDir": "/",
    "Labels": {"org.opencontainers.image.title": "single-state"}
  },
  "rootfs": {"type": "layers", "diff_ids": ["sha256:$diff_id"]},
  "history": [{"created_by": "deploy/image/oci.sh"}]
}
JSON
config=$(blob "$work/config.json")

cat > "$work/manifest.json" <<JSON
{
  "schemaVersion": 2,
  "mediaType": "application/vnd.oci.image.manifest.v1+json",
  "config": {"mediaType": "application/vnd.oci.image.config.v1+json", $config},
  "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", $layer}]
}
JSON
manifest=$(blob "$work/manifest.json")

cat > "$work/image/index.json" <<JSON
{
  "schemaVersion": 2,
  "mediaType": "application/vnd.oci.image.index.v1+json",
  "manifests": [
    {
      "mediaType": "application/vnd.oci.image.manifest.v1+json", $manifest,
      "platform": {"architecture": "$architecture", "os": "linux"},
      "annotations": {
        "io.containerd.image.name": "docker.io/library/$name",
        "org.opencontainers.image.ref.name": "${name##*:}"
      }
    }
  ]
}
JSON
echo '{"imageLayoutVersion": "1.0.0"}' > "$work/image/oci-layout"

pack --create --owner=0 --group=0 --directory="$work/image" --file="$work/out.tar" blobs index.json oci-layout
mv "$work/out.tar" "$out"
stat --printf="$name: $out, %s bytes\n" "$out"
