package registry

import (
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecr"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/aws/aws-sdk-go-v2/service/sts/types"
	"github.com/containerd/errdefs"

	"slipway/engine"
	"slipway/secret"
)

var (
	amazonRegion = regexp.MustCompile(`^[a-z]{2,4}(-[a-z]+)+-[0-9]{1,2}$`)
	amazonHost   = regexp.MustCompile(`^[0-9]{12}\.dkr[.-]ecr(-fips)?\.[a-z0-9-]+\.(amazonaws\.com|amazonaws\.com\.cn|on\.aws)$`)
)

// amazon is the login of ECR in a region: a token that is asked for with the
// keys of the integration, or with those of the last of its roles. asked is the
// host that the action names, "" for that of the account.
func (e *Exchange) amazon(ctx context.Context, w Want) (Login, error) {
	region, asked := w.Region, w.Host
	switch {
	case region == "":
		return Login{}, fmt.Errorf("region is required: %w", errdefs.ErrInvalidArgument)
	case !amazonRegion.MatchString(region): // it becomes a part of a host
		return Login{}, fmt.Errorf("region %q is none of Amazon's: %w", region, errdefs.ErrInvalidArgument)
	}
	// Never the SDK's own search: it goes to the environment, to files and to the
	// address where clouds tell their machines who they are.
	keys, err := e.roles(ctx, w)
	if err != nil {
		return Login{}, err
	}
	client := ecr.New(ecr.Options{Region: region, Credentials: fixed(keys), BaseEndpoint: base(e.cfg.ECR), HTTPClient: e.client})
	out, err := client.GetAuthorizationToken(ctx, &ecr.GetAuthorizationTokenInput{})
	if err != nil {
		return Login{}, refused(ctx, "Amazon ECR in "+region, statusOf(err), err)
	}
	if len(out.AuthorizationData) == 0 {
		return Login{}, fmt.Errorf("Amazon ECR in %s gives no token: %w", region, errdefs.ErrUnavailable)
	}
	data := out.AuthorizationData[0]
	text, err := base64.StdEncoding.DecodeString(aws.ToString(data.AuthorizationToken))
	user, password, ok := strings.Cut(string(text), ":")
	u, uerr := url.Parse(aws.ToString(data.ProxyEndpoint))
	if err != nil || !ok || uerr != nil || u.Host == "" {
		return Login{}, fmt.Errorf("Amazon ECR in %s gives a token that is none: %w", region, errdefs.ErrUnavailable)
	}
	host := u.Host
	if asked != "" && !strings.EqualFold(asked, host) {
		if host = strings.ToLower(asked); !amazonHost.MatchString(host) {
			return Login{}, foreign(asked, "one of Amazon's")
		}
	}
	return Login{engine.Login{Host: host, Username: user, Password: password}, aws.ToTime(data.ExpiresAt)}, nil
}

// roles takes the roles of an integration one after the other and gives the
// keys of the last. The first one is taken with the keys of the integration, or for
// who the run is.
func (e *Exchange) roles(ctx context.Context, w Want) (keys aws.Credentials, err error) {
	c, region, roles := w.Integration.Credentials, w.Region, w.Integration.Credentials.Roles
	if w.Integration.Auth == secret.AuthOIDC {
		if keys, err = e.webIdentity(ctx, w); err != nil {
			return keys, err
		}
		roles = roles[1:]
	} else {
		keys = aws.Credentials{AccessKeyID: c.AccessKey, SecretAccessKey: c.SecretKey}
	}
	for _, r := range roles {
		client := sts.New(sts.Options{Region: region, Credentials: fixed(keys), BaseEndpoint: base(e.cfg.STS), HTTPClient: e.client})
		in := &sts.AssumeRoleInput{RoleArn: aws.String(r.ARN), RoleSessionName: aws.String("slipway")}
		if r.ExternalID != "" {
			in.ExternalId = aws.String(r.ExternalID)
		}
		in.DurationSeconds = seconds(r)
		out, err := client.AssumeRole(ctx, in)
		if err != nil {
			return keys, refused(ctx, "Amazon STS, asked for the role "+r.ARN+",", statusOf(err), err)
		}
		if keys, err = session(out.Credentials, r); err != nil {
			return keys, err
		}
	}
	return keys, nil
}

// amazonAudience is what Amazon wants tokens of others to be for, unless it was
// told otherwise.
const amazonAudience = "sts.amazonaws.com"

// webIdentity takes the first role of an integration for who the run is.
func (e *Exchange) webIdentity(ctx context.Context, w Want) (aws.Credentials, error) {
	c := w.Integration.Credentials
	if len(c.Roles) == 0 {
		return aws.Credentials{}, fmt.Errorf("role_assumptions is required with auth_type OIDC: the role that is taken: %w", errdefs.ErrInvalidArgument)
	}
	r := c.Roles[0]
	token, err := e.cfg.Identity(ctx, w.Run, cmp.Or(c.Audience, amazonAudience))
	if err != nil {
		return aws.Credentials{}, err
	}
	client := sts.New(sts.Options{Region: w.Region, Credentials: aws.AnonymousCredentials{}, BaseEndpoint: base(e.cfg.STS), HTTPClient: e.client})
	out, err := client.AssumeRoleWithWebIdentity(ctx, &sts.AssumeRoleWithWebIdentityInput{
		RoleArn: aws.String(r.ARN), RoleSessionName: aws.String("slipway"), WebIdentityToken: aws.String(token), DurationSeconds: seconds(r),
	})
	if err != nil {
		return aws.Credentials{}, refused(ctx, "Amazon STS, asked for the role "+r.ARN+" for "+w.Run.Subject()+",", statusOf(err), err)
	}
	return session(out.Credentials, r)
}

// seconds is how long a role is wanted, nil: as Amazon likes.
func seconds(r secret.Role) *int32 {
	if r.Seconds <= 0 {
		return nil
	}
	return aws.Int32(int32(min(r.Seconds, int64(12*time.Hour/time.Second)))) //nolint:gosec // bounded
}

// session are the keys that STS gives for a role.
func session(c *types.Credentials, r secret.Role) (aws.Credentials, error) {
	if c == nil {
		return aws.Credentials{}, fmt.Errorf("Amazon STS gives no keys for the role %s: %w", r.ARN, errdefs.ErrUnavailable)
	}
	return aws.Credentials{
		AccessKeyID: aws.ToString(c.AccessKeyId), SecretAccessKey: aws.ToString(c.SecretAccessKey), SessionToken: aws.ToString(c.SessionToken),
	}, nil
}

func fixed(keys aws.Credentials) aws.CredentialsProvider {
	return aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) { return keys, nil })
}

func base(url string) *string {
	if url == "" {
		return nil
	}
	return &url
}

// statusOf is the status of the answer that an error of the SDK is of, 0 if
// there was none. Throttling is told by a code in an answer of status 400.
func statusOf(err error) int {
	var answer interface{ HTTPStatusCode() int }
	var code interface{ ErrorCode() string }
	switch {
	case errors.As(err, &code) && strings.Contains(code.ErrorCode(), "Throttl"):
		return 429
	case errors.As(err, &answer):
		return answer.HTTPStatusCode()
	}
	return 0
}
