# Makes the directory $image, an OCI image named "layer" whose only layer is $archive, of the media type $suffix, that unpacks to $plain.
rm -rf "$image.part"
mkdir -p "$image.part/blobs/sha256"
cd "$image.part"
store() { # FILE: adds it and prints the members of its descriptor
    digest=$(sha256sum <"$1" | cut -d' ' -f1)
    ln -f "$1" "blobs/sha256/$digest"
    printf '"digest":"sha256:%s","size":%s' "$digest" "$(stat -c %s "$1")"
}
vnd=application/vnd.oci.image
layer=$(store "$archive")
diff=$(sha256sum <"$plain" | cut -d' ' -f1)
printf '{"architecture":"amd64","os":"linux","config":{},"rootfs":{"type":"layers","diff_ids":["sha256:%s"]}}' "$diff" >config
config=$(store config)
printf '{"schemaVersion":2,"config":{"mediaType":"%s.config.v1+json",%s},"layers":[{"mediaType":"%s.layer.v1.%s",%s}]}' \
    "$vnd" "$config" "$vnd" "$suffix" "$layer" >manifest
manifest=$(store manifest)
printf '{"schemaVersion":2,"manifests":[{"mediaType":"%s.manifest.v1+json",%s,"annotations":{"org.opencontainers.image.ref.name":"layer"}}]}' \
    "$vnd" "$manifest" >index.json
printf '{"imageLayoutVersion":"1.0.0"}' >oci-layout
rm config manifest
mv "$image.part" "$image"
