/* SPDX-License-Identifier: Apache-2.0 */
/* probe_link.c - the doors behind netlink: network devices, namespace ids, packet filters. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <libmnl/libmnl.h>
#include <linux/if_link.h>
#include <linux/net_namespace.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/rtnetlink.h>
#include <linux/veth.h>
#include <net/if.h>
#include <sched.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/own.h"
#include "kernel/probe_doors.h"

#define PROBE_IFINDEX 48879
#define PROBE_NSID 4242

/* Sends `len` bytes of requests; answers go to `on_answer` until the acknowledgement of the last.  0 or -errno.
 * Runs in children only: the socket is closed by their end. */
static int ask_netlink(int bus, const void *requests, size_t len, mnl_cb_t on_answer, void *data)
{
	struct mnl_socket *nl = mnl_socket_open2(bus, SOCK_CLOEXEC);
	char buf[8192];
	ssize_t n;
	int r = MNL_CB_OK;

	if (!nl || mnl_socket_bind(nl, 0, MNL_SOCKET_AUTOPID) < 0 || mnl_socket_sendto(nl, requests, len) < 0)
		return -errno;
	while (r > MNL_CB_STOP) {
		n = mnl_socket_recvfrom(nl, buf, sizeof(buf));
		if (n < 0)
			return -errno;
		r = mnl_cb_run(buf, (size_t)n, 0, 0, on_answer, data);
	}
	return r < 0 ? -errno : 0;
}

static struct nlmsghdr *request(void *at, uint16_t type, uint16_t flags)
{
	struct nlmsghdr *nlh = mnl_nlmsg_put_header(at);

	nlh->nlmsg_type = type;
	nlh->nlmsg_flags = NLM_F_REQUEST | flags;
	return nlh;
}

/* A veth "ferry0" with this index here, its peer "ferry1" in peer_ns_fd (-1: here too). */
static int new_veth(int ifindex, int peer_ns_fd)
{
	char buf[1024] = { 0 };
	struct nlmsghdr *nlh = request(buf, RTM_NEWLINK, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL);
	struct ifinfomsg *ifi = mnl_nlmsg_put_extra_header(nlh, sizeof(*ifi));
	struct nlattr *info, *data, *peer;

	ifi->ifi_index = ifindex;
	mnl_attr_put_strz(nlh, IFLA_IFNAME, "ferry0");
	info = mnl_attr_nest_start(nlh, IFLA_LINKINFO);
	mnl_attr_put_strz(nlh, IFLA_INFO_KIND, "veth");
	data = mnl_attr_nest_start(nlh, IFLA_INFO_DATA);
	peer = mnl_attr_nest_start(nlh, VETH_INFO_PEER);
	mnl_nlmsg_put_extra_header(nlh, sizeof(*ifi));
	mnl_attr_put_strz(nlh, IFLA_IFNAME, "ferry1");
	if (peer_ns_fd >= 0)
		mnl_attr_put_u32(nlh, IFLA_NET_NS_FD, (uint32_t)peer_ns_fd);
	mnl_attr_nest_end(nlh, peer);
	mnl_attr_nest_end(nlh, data);
	mnl_attr_nest_end(nlh, info);
	return ask_netlink(NETLINK_ROUTE, nlh, nlh->nlmsg_len, NULL, NULL);
}

static int make_chosen_ifindex(void)
{
	int r = unshare(CLONE_NEWNET) < 0 ? -errno : new_veth(PROBE_IFINDEX, -1);

	if (r < 0)
		return r;
	return if_nametoindex("ferry0") == PROBE_IFINDEX ? 0 : -EOPNOTSUPP;
}

int probe_new_ifindex(struct err *err)
{
	return probe_in_child(make_chosen_ifindex, "a veth with a chosen index", err);
}

/* Finds attribute `type` behind a fixed part of `skip` bytes. */
struct want { uint16_t type; size_t skip; bool seen; int32_t value; };

static int look(const struct nlmsghdr *nlh, void *data)
{
	struct want *want = data;
	const struct nlattr *attr;

	mnl_attr_for_each(attr, nlh, want->skip) {
		if (mnl_attr_get_type(attr) == want->type && mnl_attr_get_payload_len(attr) >= sizeof(want->value)) {
			want->seen = true;
			want->value = (int32_t)mnl_attr_get_u32(attr);
		}
	}
	return MNL_CB_OK;
}

static int nsid_request(uint16_t type, int ns_fd, int32_t nsid, struct want *want)
{
	char buf[256] = { 0 };
	struct nlmsghdr *nlh = request(buf, type, NLM_F_ACK);
	struct rtgenmsg *gen = mnl_nlmsg_put_extra_header(nlh, sizeof(*gen));

	gen->rtgen_family = AF_UNSPEC;
	mnl_attr_put_u32(nlh, NETNSA_FD, (uint32_t)ns_fd);
	if (type == RTM_NEWNSID)
		mnl_attr_put_u32(nlh, NETNSA_NSID, (uint32_t)nsid);
	return ask_netlink(NETLINK_ROUTE, nlh, nlh->nlmsg_len, want ? look : NULL, want);
}

/* Leaves this thread in a new namespace and returns a descriptor of the one before. */
static int leave_netns(void)
{
	int old = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);

	return old < 0 || unshare(CLONE_NEWNET) < 0 ? -errno : old;
}

static int give_nsid(void)
{
	struct want want = { .type = NETNSA_NSID, .skip = sizeof(struct rtgenmsg) };
	int old = leave_netns(), r;

	if (old < 0)
		return old;
	r = nsid_request(RTM_NEWNSID, old, PROBE_NSID, NULL);
	if (r == 0)
		r = nsid_request(RTM_GETNSID, old, 0, &want);
	if (r < 0)
		return r;
	return want.seen && want.value == PROBE_NSID ? 0 : -EOPNOTSUPP;
}

int probe_nsid(struct err *err)
{
	return probe_in_child(give_nsid, "an id for a network namespace", err);
}

static int see_link_nsid(void)
{
	struct want want = { .type = IFLA_LINK_NETNSID, .skip = sizeof(struct ifinfomsg) };
	char buf[256] = { 0 };
	struct nlmsghdr *nlh;
	int old, r = unshare(CLONE_NEWNET) < 0 ? -errno : 0;

	if (r < 0)
		return r;
	old = leave_netns();    /* both ends in namespaces that go away */
	if (old < 0)
		return old;
	r = new_veth(PROBE_IFINDEX, old);
	if (r < 0)
		return r;
	nlh = request(buf, RTM_GETLINK, NLM_F_ACK);
	((struct ifinfomsg *)mnl_nlmsg_put_extra_header(nlh, sizeof(struct ifinfomsg)))->ifi_index = PROBE_IFINDEX;
	r = ask_netlink(NETLINK_ROUTE, nlh, nlh->nlmsg_len, look, &want);
	if (r < 0)
		return r;
	return want.seen && want.value >= 0 ? 0 : -EOPNOTSUPP;
}

int probe_link_nsid(struct err *err)
{
	return probe_in_child(see_link_nsid, "a device's peer in another namespace", err);
}

static struct nlmsghdr *nft_message(void *at, uint16_t type, uint16_t flags, uint8_t family, uint16_t subsystem)
{
	struct nlmsghdr *nlh = request(at, type, flags);
	struct nfgenmsg *gen = mnl_nlmsg_put_extra_header(nlh, sizeof(*gen));

	gen->nfgen_family = family;
	gen->version = NFNETLINK_V0;
	gen->res_id = htons(subsystem);
	return nlh;
}

/* A batch of one: a new table. */
static int new_nft_table(void)
{
	char buf[512] = { 0 }, *at = buf;
	struct nlmsghdr *nlh;

	if (unshare(CLONE_NEWNET) < 0)
		return -errno;
	at += nft_message(at, NFNL_MSG_BATCH_BEGIN, 0, AF_UNSPEC, NFNL_SUBSYS_NFTABLES)->nlmsg_len;
	nlh = nft_message(at, NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_NEWTABLE, NLM_F_CREATE | NLM_F_ACK, NFPROTO_INET, 0);
	mnl_attr_put_strz(nlh, NFTA_TABLE_NAME, "ferry-probe");
	at += nlh->nlmsg_len;
	at += nft_message(at, NFNL_MSG_BATCH_END, 0, AF_UNSPEC, NFNL_SUBSYS_NFTABLES)->nlmsg_len;
	return ask_netlink(NETLINK_NETFILTER, buf, (size_t)(at - buf), NULL, NULL);
}

int probe_nftables(struct err *err)
{
	return probe_in_child(new_nft_table, "an nftables table", err);
}
