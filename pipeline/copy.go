package pipeline

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"slipway/image"
)

// errTimeout is the cause with which a step without a container of its own ends.
var errTimeout = errors.New("the action's time is over")

// copies tells whether a build takes an image that is there instead of running
// a Dockerfile.
func (b Build) copies() bool { return b.From.Use || b.Location != "" }

// source is the image that a build without a Dockerfile takes, if it is no other
// action's; b.Registry is as it holds.
func (b Build) source(domain string, v *values) (ref string, err error) {
	name := strings.TrimSpace(v.expand(b.Image))
	tags := commaList(v.expand(b.Tag))
	if b.Location == LocationPackage {
		if p := strings.TrimSpace(v.expand(b.Package)); p != "" {
			name = p
		}
		if name == "" {
			return "", errors.New("package is required with image_location " + b.Location)
		}
		tags = nil
		for _, w := range b.Versions {
			tags = append(tags, commaList(v.expand(w))...)
		}
		name = ownHost + "/" + domain + "/" + strings.TrimPrefix(name, domain+"/")
	} else if name == "" {
		return "", errors.New("docker_image_name is required with image_location " + b.Location)
	} else if b.Location == LocationPrivate {
		name = b.Registry.name(name, v)
	}
	if last := name[strings.LastIndex(name, "/")+1:]; strings.ContainsAny(last, ":@") {
		return name, nil
	}
	return name + ":" + slices.Concat(tags, []string{"latest"})[0], nil
}

// copyImage gives an image that is there the names of the build's target: for
// the platforms that are asked for, all of which it must have.
func (h *handling) copyImage(ctx context.Context, s ActionExecution, b Build, to target, way *reach, v *values, log *lines) (Result, []string, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, s.Action.timeout(), errTimeout)
	defer cancel()
	res, tags, err := h.copied(ctx, s, b, to, way, v, log)
	if err != nil && errors.Is(context.Cause(ctx), errTimeout) {
		return Result{Status: Failed, Reason: EndTimeout, Code: -1, Error: fmt.Sprintf("ended after its timeout of %s: raise the action's timeout", s.Action.timeout())}, nil, nil
	}
	return res, tags, err
}

func (h *handling) copied(ctx context.Context, s ActionExecution, b Build, to target, way *reach, v *values, log *lines) (Result, []string, error) {
	wanted := commaList(v.expand(b.Platforms))
	for i, p := range wanted {
		parsed, err := platforms.Parse(p)
		if err != nil {
			return Result{}, nil, fatal("target_platform: %q is no platform: %w", p, err)
		}
		wanted[i] = platforms.FormatAll(platforms.Normalize(parsed))
	}
	if len(wanted) == 0 {
		wanted = []string{platforms.FormatAll(platforms.Normalize(platforms.DefaultSpec()))}
	}
	digest, ref, err := h.whole(ctx, s, b, wanted, way, v, log)
	if err != nil {
		return Result{}, nil, err
	}
	if digest, err = h.narrow(ctx, digest, wanted); err != nil {
		return Result{}, nil, fmt.Errorf("%s: %w", ref, err)
	}
	// Held as the result of a build is, until its end is on disk.
	if err := h.eng.Images().Hold(ctx, "build/"+h.engineID(s), digest); err != nil {
		return Result{}, nil, err
	}
	log.say(fmt.Sprintf("No Dockerfile is run: %s, %s, for %s", ref, digest, strings.Join(wanted, ", ")))
	return h.publish(ctx, digest, to, way, v, log)
}

// whole finds the image to take, with each platform that is asked for in the
// store. ref is what to call it.
func (h *handling) whole(ctx context.Context, s ActionExecution, b Build, wanted []string, way *reach, v *values, log *lines) (digest, ref string, err error) {
	lacks := func(platform string, err error) error {
		if errdefs.IsNotFound(err) {
			return fatal("%s has no image for %s, which target_platform asks for: %w", ref, platform, err)
		}
		return err
	}
	if from := s.Action.imageFrom(); from != nil {
		ref = "the image of the build action"
		if digest, err = h.given(ctx, s, *from, wanted[0]); err != nil {
			return "", ref, err
		}
		for _, p := range wanted {
			if _, err := h.eng.Images().Inspect(ctx, digest, p); err != nil {
				return "", ref, lacks(p, err)
			}
		}
		return digest, ref, nil
	}
	if ref, err = b.source(h.project.Domain, v); err != nil {
		return "", ref, &fatalError{err}
	}
	at := ref
	for _, p := range wanted {
		r := image.Request{Ref: at, Platform: p, Refresh: at == ref && (b.Pull == nil && b.Multi || b.Pull != nil && *b.Pull)}
		if digest, err = h.resolve(ctx, r, way, v, log); err != nil {
			return "", ref, lacks(p, err)
		}
		at = pinned(ref, digest) // the tag may move meanwhile
	}
	return digest, ref, nil
}

// pinned is a reference by its digest.
func pinned(ref, digest string) string {
	ref, _, _ = strings.Cut(ref, "@")
	if at := strings.LastIndexByte(ref, ':'); at > strings.LastIndexByte(ref, '/') {
		ref = ref[:at]
	}
	return ref + "@" + digest
}

// indexMax bounds an index, in bytes.
const indexMax = 4 << 20

// narrow makes an index of the images of some platforms out of a wider one. What
// is no index, or has no others, stays as it is.
func (h *handling) narrow(ctx context.Context, digest string, wanted []string) (string, error) {
	blob, err := h.eng.Blobs().Open(ctx, digest)
	if err != nil {
		return "", err
	}
	defer blob.Close()
	text, err := io.ReadAll(io.NewSectionReader(blob, 0, min(blob.Size(), indexMax)))
	if err != nil {
		return "", err
	}
	media, less, err := narrowed(text, wanted, func(digest string) bool {
		_, err := h.eng.Blobs().Stat(ctx, digest)
		return err == nil
	})
	if err != nil || less == nil {
		return digest, err
	}
	return h.eng.Blobs().PutManifest(ctx, media, less)
}

// attests is the annotation by which an attestation says what image it is of.
const attests = "vnd.docker.reference.digest"

// narrowed is the text of an index without the images of other platforms, nil
// if it has none. Attestations go with their images if they are here: they do
// not come with a pull. What we do not know in the index stays.
func narrowed(text []byte, wanted []string, here func(digest string) bool) (media string, less []byte, err error) {
	var all map[string]json.RawMessage
	var index ocispec.Index
	if err := errors.Join(json.Unmarshal(text, &all), json.Unmarshal(text, &index)); err != nil {
		return "", nil, fmt.Errorf("the index: %w: %w", errdefs.ErrInvalidArgument, err)
	}
	var match []platforms.Matcher
	for _, w := range wanted {
		p, err := platforms.Parse(w)
		if err != nil {
			return "", nil, err
		}
		match = append(match, platforms.OnlyStrict(p))
	}
	kept := map[string]bool{}
	for _, m := range index.Manifests {
		kept[m.Digest.String()] = m.Platform != nil && slices.ContainsFunc(match, func(p platforms.Matcher) bool { return p.Match(*m.Platform) })
	}
	keep := slices.DeleteFunc(slices.Clone(index.Manifests), func(m ocispec.Descriptor) bool {
		return !kept[m.Digest.String()] && (!kept[m.Annotations[attests]] || !here(m.Digest.String()))
	})
	if len(keep) == len(index.Manifests) {
		return "", nil, nil
	}
	if all["manifests"], err = json.Marshal(keep); err != nil {
		return "", nil, err
	}
	if less, err = json.Marshal(all); err != nil {
		return "", nil, err
	}
	media = index.MediaType
	if media == "" {
		media = ocispec.MediaTypeImageIndex
	}
	return media, bytes.TrimSpace(less), nil
}
