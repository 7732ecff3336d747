// Package access says who is asking and what they may do: users, tokens with
// scopes, members of workspaces, their groups, permission sets, who is in which
// project with which of them, and Actor, which every front door takes as the
// parameter by.
//
// A request brings the secret of a token ("slw_..."); its SHA-256 finds the
// token, the token its user, the user the workspaces it is a member of. All of
// that is the Actor. It is kept in memory and thrown away with every commit that
// changes any of it (Topic), so a request costs no statement and a deleted token
// ends at once.
//
//	stranger --Authenticate--> Actor --Sees--> workspace --May(scope)----> door
//	           401                     404                 403
//	                                 --SeesProject--> project --MayIn(scope)--> door
//	                                   404                      403, or 404 for what a level denies
package access
