/*
 * What bindings.rs is made of. Constants are named here so that only those are made which are used; what is only passed
 * on is left opaque. How it is made is said in bindings.rs.
 */
#include <stddef.h>
#include <infiniband/verbs.h>

static const unsigned int WC_SUCCESS = IBV_WC_SUCCESS;
static const unsigned int WC_WR_FLUSH_ERR = IBV_WC_WR_FLUSH_ERR;
static const unsigned int WC_REM_ACCESS_ERR = IBV_WC_REM_ACCESS_ERR;
static const unsigned int WC_REM_INV_REQ_ERR = IBV_WC_REM_INV_REQ_ERR;
static const unsigned int WC_REM_OP_ERR = IBV_WC_REM_OP_ERR;
static const unsigned int WC_RETRY_EXC_ERR = IBV_WC_RETRY_EXC_ERR;
static const unsigned int WR_RDMA_READ = IBV_WR_RDMA_READ;
static const unsigned int SEND_SIGNALED = IBV_SEND_SIGNALED;
static const unsigned int ACCESS_LOCAL_WRITE = IBV_ACCESS_LOCAL_WRITE;
static const unsigned int ACCESS_REMOTE_READ = IBV_ACCESS_REMOTE_READ;
static const unsigned int ACCESS_ON_DEMAND = IBV_ACCESS_ON_DEMAND;
static const unsigned int QPT_RC = IBV_QPT_RC;
static const unsigned int QPS_INIT = IBV_QPS_INIT;
static const unsigned int QPS_RTR = IBV_QPS_RTR;
static const unsigned int QPS_RTS = IBV_QPS_RTS;
static const unsigned int QPS_ERR = IBV_QPS_ERR;
static const unsigned int QP_FOR_INIT = IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS;
static const unsigned int QP_FOR_RTR = IBV_QP_STATE | IBV_QP_AV | IBV_QP_PATH_MTU | IBV_QP_DEST_QPN | IBV_QP_RQ_PSN |
				       IBV_QP_MAX_DEST_RD_ATOMIC | IBV_QP_MIN_RNR_TIMER;
static const unsigned int QP_FOR_RTS = IBV_QP_STATE | IBV_QP_TIMEOUT | IBV_QP_RETRY_CNT | IBV_QP_RNR_RETRY |
				       IBV_QP_SQ_PSN | IBV_QP_MAX_QP_RD_ATOMIC;
static const unsigned int PORT_ACTIVE = IBV_PORT_ACTIVE;
static const unsigned int GID_TYPE_ROCE_V1 = IBV_GID_TYPE_ROCE_V1;
static const unsigned int ODP_SUPPORT = IBV_ODP_SUPPORT;
static const unsigned int ODP_SUPPORT_READ = IBV_ODP_SUPPORT_READ;

/* The beginning of struct ibv_context: the calls that do not go through the library's own functions. */
struct context {
	struct ibv_device *device;
	void *before[11];
	int (*poll_cq)(struct ibv_cq *cq, int num_entries, struct ibv_wc *wc);
	int (*req_notify_cq)(struct ibv_cq *cq, int solicited_only);
	void *between[12];
	int (*post_send)(struct ibv_qp *qp, struct ibv_send_wr *wr, struct ibv_send_wr **bad_wr);
	void *after[6];
	int cmd_fd;
	int async_fd;
	int num_comp_vectors;
	pthread_mutex_t mutex;
	void *abi_compat;
};
#define SAME(of, field) \
	_Static_assert(offsetof(struct context, field) == offsetof(struct ibv_context, of field), #field)
SAME(ops., poll_cq);
SAME(ops., req_notify_cq);
SAME(ops., post_send);
SAME(, cmd_fd);
SAME(, abi_compat);
_Static_assert(sizeof(struct context) == sizeof(struct ibv_context), "context");

/* The end of struct verbs_context, which grows at its other end. */
struct context_extension {
	int (*query_device_ex)(struct context *context, const struct ibv_query_device_ex_input *input,
			       struct ibv_device_attr_ex *attr, size_t attr_size);
	void *others[11];
	size_t sz;
	struct context context;
};
#define AT_END(type, field) (sizeof(struct type) - offsetof(struct type, field))
#define SAME_AT_END(field) \
	_Static_assert(AT_END(context_extension, field) == AT_END(verbs_context, field), #field)
SAME_AT_END(query_device_ex);
SAME_AT_END(sz);
SAME_AT_END(context);
